// cuBLASLt, opened when a device is asked for: it is hundreds of megabytes, wants a driver, and a program
// that runs on CPUs only must start without it.
#pragma once

#include <cublasLt.h>

#include <memory>
#include <type_traits>

#include "runtime/base/error.h"

namespace penstock::cuda {

/// The functions of the library that are used here; they stay valid as long as this lives.
class CublasLt {
 public:
  /// Throws UsageError naming what was looked for when the library is not there.
  CublasLt();
  CublasLt(const CublasLt&) = delete;
  CublasLt& operator=(const CublasLt&) = delete;

  size_t version() const { return version_(); }
  cublasLtHandle_t handle() const { return handle_.get(); }

  decltype(&cublasLtMatmul) matmul;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic;
  decltype(&cublasLtMatmulAlgoCheck) check_algorithm;
  decltype(&cublasLtMatmulAlgoConfigGetAttribute) algorithm_attribute;
  decltype(&cublasLtMatmulDescCreate) make_description;
  decltype(&cublasLtMatmulDescDestroy) end_description;
  decltype(&cublasLtMatmulDescSetAttribute) set_description;
  decltype(&cublasLtMatrixLayoutCreate) make_layout;
  decltype(&cublasLtMatrixLayoutDestroy) end_layout;
  decltype(&cublasLtMatmulPreferenceCreate) make_preference;
  decltype(&cublasLtMatmulPreferenceDestroy) end_preference;
  decltype(&cublasLtMatmulPreferenceSetAttribute) set_preference;

 private:
  struct Close {
    void operator()(void* library) const;
  };
  std::unique_ptr<void, Close> library_;  // closed after the handle has ended
  decltype(&cublasLtGetVersion) version_;
  decltype(&cublasLtCreate) create_;
  decltype(&cublasLtDestroy) destroy_;
  std::unique_ptr<std::remove_pointer_t<cublasLtHandle_t>, decltype(&cublasLtDestroy)> handle_{nullptr,
                                                                                               nullptr};
};

/// Throws Error "cuBLASLt: what: status" unless `status` is success.
void check(cublasStatus_t status, const char* what, Where where = Where::here());

}  // namespace penstock::cuda
