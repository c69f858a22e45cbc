#include "launch/agree.h"

#include <algorithm>

namespace penstock {
namespace {

std::string named(const World& world, int rank) {
  return "rank " + std::to_string(rank) + " (" + world.info(rank).host + ")";
}

/// The exit status as the first byte of a text.
std::string coded(ExitStatus status) {
  return std::string(1, static_cast<char>(status));
}

}  // namespace

std::vector<std::string> agree(World& world, const std::function<std::string()>& work) {
  std::string mine;
  try {
    mine = coded(ExitStatus::success) + work();
  } catch (const AgreedFailure&) {
    throw;
  } catch (const WorldAborted&) {
    throw;
  } catch (const Error& e) {
    mine = coded(e.status()) + e.what();
  } catch (const std::exception& e) {
    mine = coded(ExitStatus::runtime_failure) + e.what();
  }
  std::vector<std::string> all = world.gather_all(mine);

  // The same trouble on several ranks is told once, with the first rank that had it.
  std::vector<std::string> told;
  std::string message;
  auto status = ExitStatus::success;
  for (size_t r = 0; r < all.size(); ++r) {
    const std::string text = all[r].substr(1);
    if (all[r].front() == 0) continue;
    status = std::max(status, static_cast<ExitStatus>(all[r].front()));
    if (std::find(told.begin(), told.end(), text) != told.end()) continue;
    told.push_back(text);
    message += (message.empty() ? "" : "\n") +
               (world.size() > 1 ? named(world, static_cast<int>(r)) + ": " : "") + text;
  }
  if (status != ExitStatus::success) throw AgreedFailure(message, status);
  for (std::string& text : all) text.erase(0, 1);
  return all;
}

void check_same(World& world, const std::string& what, const std::string& mine) {
  const std::vector<std::string> all = agree(world, [&mine] { return mine; });
  agree(world, [&]() -> std::string {
    if (mine != all[0])
      throw UsageError(what + " differs between ranks: expected '" + all[0] + "' as on rank 0, found '" +
                       mine + "'");
    return {};
  });
}

}  // namespace penstock
