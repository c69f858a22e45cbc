#include "launch/preflight_checks.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>

namespace penstock {
namespace {

constexpr uint64_t kMega = 1'000'000;
constexpr uint64_t kRoomToBreathe = 64 * kMega;
constexpr uint64_t kSharedMemoryPerRank = 8 * kMega;
// Logs of several hosts are read side by side, and Slurm's and the file server's time stamps with them.
constexpr double kMostSkewSeconds = 1;

std::optional<int> leading_number(const std::optional<std::string>& text) {
  int value = 0;
  if (!text || std::from_chars(text->data(), text->data() + text->size(), value).ec != std::errc())
    return std::nullopt;
  return value;
}

std::string milliseconds_text(double seconds) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f ms", 1e3 * seconds);
  return text;
}

}  // namespace

Check check_slurm(const std::function<std::optional<std::string>(const char* name)>& lookup, int ranks,
                  int hosts) {
  const std::string found = std::to_string(ranks) + (ranks == 1 ? " rank" : " ranks") + " on " +
                            std::to_string(hosts) + (hosts == 1 ? " host" : " hosts");
  if (!lookup("SLURM_JOB_ID")) return {"world", true, found + "; not a Slurm job"};
  // A step's own numbers where srun started the ranks, the job's under mpirun.
  for (const char* name : {"SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"}) {
    const std::optional<int> tasks = leading_number(lookup(name));
    if (!tasks) continue;
    if (*tasks != ranks)
      return {"world", false,
              "expected " + std::to_string(*tasks) + " ranks (" + name + "), found " + found +
                  "; start with `srun --mpi=pmix`, or give mpirun the same number"};
    break;
  }
  for (const char* name : {"SLURM_STEP_NUM_NODES", "SLURM_JOB_NUM_NODES"}) {
    const std::optional<int> nodes = leading_number(lookup(name));
    if (!nodes) continue;
    if (*nodes < hosts)
      return {"world", false,
              "expected " + std::to_string(*nodes) + " hosts (" + name + "), found " + found +
                  "; ranks run outside the job's nodes"};
    break;
  }
  return {"world", true, found + ", as Slurm says"};
}

Check check_same_everywhere(const std::string& name, const std::vector<std::string>& whose,
                            const std::vector<Finding>& findings) {
  const Finding& first = findings.front();
  std::vector<std::pair<std::string, std::string>> troubles;  // what, who
  for (size_t r = 0; r < findings.size(); ++r) {
    const Finding& f = findings[r];
    if (f.good && (r == 0 || f.text == first.text || !first.good)) continue;
    const std::string what =
        f.good ? "expected what rank 0 finds (" + first.text + "), found " + f.text : f.text;
    const auto same =
        std::find_if(troubles.begin(), troubles.end(), [&](const auto& t) { return t.first == what; });
    if (same == troubles.end())
      troubles.emplace_back(what, whose[r]);
    else
      same->second += ", " + whose[r];
  }
  if (troubles.empty()) return {name, true, first.text};
  std::string detail;
  for (const auto& [what, who] : troubles) detail += (detail.empty() ? "" : "; ") + who + ": " + what;
  return {name, false, detail};
}

Check check_free_space(uint64_t free_bytes, uint64_t input_bytes) {
  const uint64_t needed = 3 * input_bytes + kRoomToBreathe;
  const std::string found = size_text(free_bytes) + " free in the output's folder";
  if (free_bytes >= needed) return {"free space", true, found};
  return {"free space", false,
          "expected at least " + size_text(needed) + " (three times the input, and some), found " + found};
}

Finding judge_locked_memory(std::optional<uint64_t> limit_bytes, bool has_infiniband) {
  if (!limit_bytes) return {true, "unlimited"};
  const std::string found = size_text(*limit_bytes);
  if (!has_infiniband) return {true, found + ", enough without InfiniBand"};
  return {false, "expected unlimited, because InfiniBand locks the memory that it sends from; found " +
                     found + " (ulimit -l); raise it in limits.conf and in slurmd's unit (LimitMEMLOCK)"};
}

Finding judge_shared_memory(uint64_t free_bytes, int ranks_here) {
  const uint64_t needed = kSharedMemoryPerRank * static_cast<uint64_t>(ranks_here);
  if (ranks_here < 2 || free_bytes >= needed) return {true, size_text(free_bytes) + " free"};
  return {false, "expected at least " + size_text(needed) + " free in /dev/shm for " +
                     std::to_string(ranks_here) + " ranks, found " + size_text(free_bytes) +
                     "; a container wants a larger --shm-size"};
}

Check check_clocks(const std::vector<std::string>& whose, const std::vector<ClockOffset>& offsets) {
  size_t worst = 0;
  double error = 0;
  for (size_t r = 0; r < offsets.size(); ++r) {
    if (std::abs(offsets[r].seconds) > std::abs(offsets[worst].seconds)) worst = r;
    error = std::max(error, offsets[r].error);
  }
  const ClockOffset& found = offsets[worst];
  const std::string text = "at most " + milliseconds_text(std::abs(found.seconds)) + " from rank 0's (" +
                           whose[worst] + "), each measured within " + milliseconds_text(error);
  if (std::abs(found.seconds) - found.error <= kMostSkewSeconds) return {"clocks", true, text};
  return {"clocks", false,
          "expected at most " + milliseconds_text(kMostSkewSeconds) + ", found " + text +
              "; start NTP or chrony on that host"};
}

std::string size_text(uint64_t bytes) {
  char text[32];
  if (bytes >= 1000 * kMega)
    std::snprintf(text, sizeof text, "%.1f GB", static_cast<double>(bytes) / (1e3 * kMega));
  else if (bytes >= kMega)
    std::snprintf(text, sizeof text, "%.0f MB", static_cast<double>(bytes) / kMega);
  else
    std::snprintf(text, sizeof text, "%.0f kB", static_cast<double>(bytes) / 1e3);
  return text;
}

std::string table_of(const std::vector<Check>& checks) {
  size_t widest = 0;
  for (const Check& check : checks) widest = std::max(widest, check.name.size());
  std::string table;
  for (const Check& check : checks)
    table += check.name + std::string(widest + 2 - check.name.size(), ' ') +
             (check.good ? "ok    " : "FAIL  ") + check.detail + "\n";
  return table;
}

std::string failed_of(const std::vector<Check>& checks) {
  std::string names;
  for (const Check& check : checks)
    if (!check.good) names += (names.empty() ? "" : ", ") + check.name;
  return names;
}

}  // namespace penstock
