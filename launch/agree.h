// Steps that every rank takes together before the job runs: if one fails anywhere, the job stops everywhere,
// with one message and one exit status.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "runtime/comm/world.h"

namespace penstock {

/// The ranks have agreed that the job cannot run. Rank 0's message lists every rank's trouble; the others
/// print nothing.
class AgreedFailure : public Error {
 public:
  using Error::Error;
};

/// Runs `work` here and on every other rank, and returns what each rank's returned. Collective. Throws
/// AgreedFailure on every rank when `work` threw Error on any.
std::vector<std::string> agree(World& world, const std::function<std::string()>& work);

/// Throws UsageError on a rank whose text differs from rank 0's: "`what` differs between ranks: ...".
void check_same(World& world, const std::string& what, const std::string& mine);

}  // namespace penstock
