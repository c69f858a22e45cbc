#include "runtime/comm/ucx_handles.h"

#include <ucs/config/global_opts.h>

#include <cstdlib>
#include <memory>

#include "runtime/base/error.h"

namespace penstock {

void check_ucx(ucs_status_t status, const char* what) {
  if (status != UCS_OK) throw Error(std::string("UCX: ") + what + ": " + ucs_status_string(status));
}

UcxContext::UcxContext(bool one_machine) {
  ucp_config_t* read = nullptr;
  check_ucx(ucp_config_read(nullptr, nullptr, &read), "reading its configuration");
  const std::unique_ptr<ucp_config_t, decltype(&ucp_config_release)> config(read, &ucp_config_release);
  // On one machine, shared memory alone: given TCP as well, UCX 1.13 sends large messages between neighbours
  // through the socket, at a third of the speed. Across machines UCX chooses, InfiniBand before TCP, but not
  // cma, which reads the peer's memory by system call: a sleeping receiver was once not woken.
  if (std::getenv("UCX_TLS") == nullptr) {
    check_ucx(ucp_config_modify(config.get(), "TLS", one_machine ? "posix,self" : "^cma,sysv"),
              "setting UCX_TLS");
  }

  // A peer's end is told once, by the world. UCX would tell it too, in its own words and on every rank.
  if (std::getenv("UCX_LOG_LEVEL") == nullptr)
    check_ucx(ucs_global_opts_set_value("LOG_LEVEL", "fatal"), "setting UCX_LOG_LEVEL");

  ucp_params_t params{};
  params.field_mask = UCP_PARAM_FIELD_FEATURES | UCP_PARAM_FIELD_MT_WORKERS_SHARED | UCP_PARAM_FIELD_NAME;
  params.features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP;
  params.mt_workers_shared = 0;
  params.name = "penstock";
  check_ucx(ucp_init(&params, config.get(), &context_), "starting");
}

UcxContext::~UcxContext() {
  ucp_cleanup(context_);
}

UcxWorker::UcxWorker(const UcxContext& context) {
  ucp_worker_params_t params{};
  params.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE;
  params.thread_mode = UCS_THREAD_MODE_SERIALIZED;
  check_ucx(ucp_worker_create(context.get(), &params, &worker_), "creating a worker");
}

UcxWorker::~UcxWorker() {
  ucp_worker_destroy(worker_);
}

std::string UcxWorker::address() const {
  ucp_address_t* address = nullptr;
  size_t length = 0;
  check_ucx(ucp_worker_get_address(worker_, &address, &length), "asking for the worker's address");
  std::string bytes(reinterpret_cast<const char*>(address), length);
  ucp_worker_release_address(worker_, address);
  return bytes;
}

int UcxWorker::event_descriptor() const {
  int descriptor = -1;
  check_ucx(ucp_worker_get_efd(worker_, &descriptor), "asking for the worker's event descriptor");
  return descriptor;
}

bool UcxWorker::arm() {
  const ucs_status_t status = ucp_worker_arm(worker_);
  if (status == UCS_ERR_BUSY) return false;
  check_ucx(status, "arming the worker");
  return true;
}

}  // namespace penstock
