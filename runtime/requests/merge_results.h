// Joins the answers to the parts of an input (--shard) into the answers to the whole.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace penstock {

struct MergeReport {
  uint64_t rows = 0;
  uint64_t repeated_ids = 0;  ///< rows that became errors, because a part before has the same custom_id
};

/// `parts` are named like results.shard-1-of-4.jsonl, in any order, all N of them; files named otherwise are
/// joined in the order given. All are JSON lines or all HDF5 (.h5, .hdf5), as is `target`, which is replaced
/// in one step. Throws UsageError when a part is missing or the kinds are mixed.
MergeReport merge_results(const std::vector<std::filesystem::path>& parts,
                          const std::filesystem::path& target);

}  // namespace penstock
