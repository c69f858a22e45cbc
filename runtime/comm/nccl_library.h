// NCCL, opened when an edge between GPUs is asked for: a program that runs on CPUs, or on one GPU, starts
// without it.
#pragma once

#include <nccl.h>

namespace penstock::nccl {

/// The functions that are used here. The library stays open until the process ends: threads of its own may
/// outlive its communicators.
class Library {
 public:
  /// Throws UsageError naming what was looked for when the library is not there.
  Library();
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;

  decltype(&ncclGetUniqueId) get_unique_id;
  decltype(&ncclCommInitRankConfig) init_rank;
  decltype(&ncclCommAbort) abort;
  decltype(&ncclCommGetAsyncError) async_error;
  decltype(&ncclSend) send;
  decltype(&ncclRecv) receive;
  decltype(&ncclGetErrorString) error_string;
  decltype(&ncclGetLastError) last_error;
};

}  // namespace penstock::nccl
