#include "runtime/comm/host.h"

#include <unistd.h>

#include <cerrno>
#include <climits>
#include <csignal>
#include <fstream>
#include <vector>

namespace penstock {

RankInfo this_process(int rank) {
  char name[HOST_NAME_MAX + 1] = {};
  gethostname(name, HOST_NAME_MAX);
  return {rank, name, static_cast<int64_t>(getpid())};
}

std::string this_place() {
  std::string boot;
  std::getline(std::ifstream("/proc/sys/kernel/random/boot_id"), boot);
  std::string place = boot;
  for (const char* space : {"/proc/self/ns/pid", "/proc/self/ns/ipc", "/proc/self/ns/mnt"}) {
    char name[64] = {};  // "pid:[4026531836]"
    if (readlink(space, name, sizeof(name) - 1) > 0) place += std::string(" ") + name;
  }
  return place;
}

bool process_alive(int64_t pid) {
  if (kill(static_cast<pid_t>(pid), 0) != 0 && errno == ESRCH) return false;
  std::string stat;  // "1234 (name) S ...", where the name may hold anything
  std::getline(std::ifstream("/proc/" + std::to_string(pid) + "/stat"), stat);
  const size_t name_end = stat.rfind(") ");
  if (name_end == std::string::npos || name_end + 2 >= stat.size()) return true;
  return stat[name_end + 2] != 'Z' && stat[name_end + 2] != 'X';
}

std::string text_of(const RankInfo& info) {
  return "rank " + std::to_string(info.rank) + " (host " + info.host + ", pid " + std::to_string(info.pid) +
         ")";
}

std::string text_of_ranks(const std::vector<int>& ranks) {
  std::string text = ranks.size() == 1 ? "rank " : "ranks ";
  for (size_t i = 0; i < ranks.size(); ++i) text += (i == 0 ? "" : ", ") + std::to_string(ranks[i]);
  return text;
}

}  // namespace penstock
