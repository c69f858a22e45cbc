// Owners of UCX's context and worker. A worker and everything made from it is driven by one thread at a time.
#pragma once

#include <ucp/api/ucp.h>

#include <string>

namespace penstock {

/// Throws Error "UCX: <what>: <reason>" unless status is UCS_OK.
void check_ucx(ucs_status_t status, const char* what);

class UcxContext {
 public:
  /// Active messages with wake-up. `one_machine`: all ranks share this one. Leaves the choice of transports
  /// to the environment variable UCX_TLS where that is set.
  explicit UcxContext(bool one_machine);
  ~UcxContext();
  UcxContext(const UcxContext&) = delete;
  UcxContext& operator=(const UcxContext&) = delete;
  ucp_context_h get() const { return context_; }

 private:
  ucp_context_h context_ = nullptr;
};

class UcxWorker {
 public:
  explicit UcxWorker(const UcxContext& context);
  ~UcxWorker();
  UcxWorker(const UcxWorker&) = delete;
  UcxWorker& operator=(const UcxWorker&) = delete;
  ucp_worker_h get() const { return worker_; }

  /// What another worker needs to reach this one; opaque bytes.
  std::string address() const;
  /// Readable when an armed worker has work. Owned by the worker.
  int event_descriptor() const;
  /// Moves what can be moved; false when there was nothing to do.
  bool progress() { return ucp_worker_progress(worker_) != 0; }
  /// Makes the event descriptor speak up at the next event. False: there is work already, progress first.
  bool arm();

 private:
  ucp_worker_h worker_ = nullptr;
};

}  // namespace penstock
