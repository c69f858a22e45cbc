#include "runtime/comm/host.h"

#include <unistd.h>

#include <climits>

namespace penstock {

RankInfo this_process(int rank) {
  char name[HOST_NAME_MAX + 1] = {};
  gethostname(name, HOST_NAME_MAX);
  return {rank, name, static_cast<int64_t>(getpid())};
}

std::string text_of(const RankInfo& info) {
  return "rank " + std::to_string(info.rank) + " (host " + info.host + ", pid " + std::to_string(info.pid) + ")";
}

}  // namespace penstock
