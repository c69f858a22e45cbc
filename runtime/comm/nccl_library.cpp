#include "runtime/comm/nccl_library.h"

#include <dlfcn.h>

#include <string>

#include "runtime/base/error.h"

namespace penstock::nccl {
namespace {

// Where the loader looks, then where NVIDIA's own packages put it.
constexpr const char* kSoname = "libnccl.so.2";
constexpr const char* kToolkit = "/usr/local/cuda/lib/libnccl.so.2";

void* open_library() {
  for (const char* name : {kSoname, kToolkit})
    if (void* library = dlopen(name, RTLD_NOW | RTLD_LOCAL)) return library;
  throw UsageError(std::string("--device cuda on several ranks: expected NCCL 2 as ") + kSoname + " or " +
                   kToolkit + ", found neither; install libnccl2, or name its folder in LD_LIBRARY_PATH");
}

template <class F>
void find(void* library, F& function, const char* name) {
  function = reinterpret_cast<F>(dlsym(library, name));
  if (function == nullptr)
    throw UsageError(std::string("--device cuda on several ranks: ") + kSoname + " lacks " + name +
                     "; install a later NCCL 2");
}

}  // namespace

Library::Library() {
  void* const library = open_library();
  find(library, get_unique_id, "ncclGetUniqueId");
  find(library, init_rank, "ncclCommInitRankConfig");
  find(library, abort, "ncclCommAbort");
  find(library, async_error, "ncclCommGetAsyncError");
  find(library, send, "ncclSend");
  find(library, receive, "ncclRecv");
  find(library, error_string, "ncclGetErrorString");
  find(library, last_error, "ncclGetLastError");
}

}  // namespace penstock::nccl
