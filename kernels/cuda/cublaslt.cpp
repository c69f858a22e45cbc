#include "kernels/cuda/cublaslt.h"

#include <dlfcn.h>

#include <string>

namespace penstock::cuda {
namespace {

// Where the loader looks, then where NVIDIA's own packages put it.
constexpr const char* kSoname = "libcublasLt.so.13";
constexpr const char* kToolkit = "/usr/local/cuda/lib64/libcublasLt.so.13";

void* open_library() {
  for (const char* name : {kSoname, kToolkit})
    if (void* library = dlopen(name, RTLD_NOW | RTLD_LOCAL)) return library;
  throw UsageError(
      std::string("--device cuda: expected cuBLASLt 13 as ") + kSoname + " or " + kToolkit +
      ", found neither; install the CUDA 13 toolkit's cuBLAS, or name its folder in LD_LIBRARY_PATH");
}

template <class F>
void find(void* library, F& function, const char* name) {
  function = reinterpret_cast<F>(dlsym(library, name));
  if (function == nullptr)
    throw UsageError(std::string("--device cuda: ") + kSoname + " lacks " + name +
                     "; install cuBLAS of CUDA 13");
}

}  // namespace

void CublasLt::Close::operator()(void* library) const {
  dlclose(library);
}

CublasLt::CublasLt() : library_(open_library()) {
  void* const library = library_.get();
  find(library, matmul, "cublasLtMatmul");
  find(library, heuristic, "cublasLtMatmulAlgoGetHeuristic");
  find(library, check_algorithm, "cublasLtMatmulAlgoCheck");
  find(library, algorithm_attribute, "cublasLtMatmulAlgoConfigGetAttribute");
  find(library, make_description, "cublasLtMatmulDescCreate");
  find(library, end_description, "cublasLtMatmulDescDestroy");
  find(library, set_description, "cublasLtMatmulDescSetAttribute");
  find(library, make_layout, "cublasLtMatrixLayoutCreate");
  find(library, end_layout, "cublasLtMatrixLayoutDestroy");
  find(library, make_preference, "cublasLtMatmulPreferenceCreate");
  find(library, end_preference, "cublasLtMatmulPreferenceDestroy");
  find(library, set_preference, "cublasLtMatmulPreferenceSetAttribute");
  find(library, version_, "cublasLtGetVersion");
  find(library, create_, "cublasLtCreate");
  find(library, destroy_, "cublasLtDestroy");
  cublasLtHandle_t handle = nullptr;
  check(create_(&handle), "make a handle");
  handle_ = {handle, destroy_};
}

void check(cublasStatus_t status, const char* what, Where where) {
  if (status != CUBLAS_STATUS_SUCCESS)
    throw Error(std::string("cuBLASLt: ") + what + ": status " + std::to_string(status),
                ExitStatus::runtime_failure, where);
}

}  // namespace penstock::cuda
