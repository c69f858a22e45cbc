// What `penstock generate --preflight` judges, apart from where the facts come from. Pure functions.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace penstock {

/// One line of the table.
struct Check {
  std::string name;
  bool good = true;
  std::string detail;  ///< what was found; when not good, also what was expected and what to do
};

/// What one rank says of one thing: what it found, or what is wrong.
struct Finding {
  bool good = true;
  std::string text;
};

/// `lookup` is getenv. Slurm's count of tasks and nodes against the world's; good outside Slurm.
Check check_slurm(const std::function<std::optional<std::string>(const char* name)>& lookup, int ranks,
                  int hosts);

/// Every rank found what rank 0 found. `whose` names each rank; ranks that say the same trouble are told
/// together.
Check check_same_everywhere(const std::string& name, const std::vector<std::string>& whose,
                            const std::vector<Finding>& findings);

/// The output's folder: answers, journal and the file that replaces the old one, each about the input's size
/// for short answers, and some room to breathe.
Check check_free_space(uint64_t free_bytes, uint64_t input_bytes);

/// `limit_bytes` as RLIMIT_MEMLOCK has it; nothing: unlimited. InfiniBand registers memory that stays locked.
Finding judge_locked_memory(std::optional<uint64_t> limit_bytes, bool has_infiniband);

/// Shared memory of one host, which carries messages between its ranks.
Finding judge_shared_memory(uint64_t free_bytes, int ranks_here);

/// Seconds by which each rank's clock is ahead of rank 0's, and by which that may be wrong.
struct ClockOffset {
  double seconds = 0;
  double error = 0;
};
Check check_clocks(const std::vector<std::string>& whose, const std::vector<ClockOffset>& offsets);

/// "1.5 GB", "312 MB", "17 kB"
std::string size_text(uint64_t bytes);

/// The table: a line a check, its name, "ok" or "FAIL", and the detail.
std::string table_of(const std::vector<Check>& checks);

/// "free space, clocks", the names of those that are not good; empty when all are.
std::string failed_of(const std::vector<Check>& checks);

}  // namespace penstock
