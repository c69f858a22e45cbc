// Runs the ranks of an in-process world as threads, and makes payloads to tell one message from another.
#pragma once

#include <sys/resource.h>

#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "runtime/base/rng.h"
#include "runtime/comm/world.h"

namespace penstock::testing_ranks {

using Buffer = std::vector<std::byte>;

inline Buffer random_bytes(size_t size, uint64_t seed) {
  Buffer bytes(size);
  for (size_t i = 0; i < size; i += 16) {
    const auto words = philox(seed, i);
    for (size_t j = 0; j < 16 && i + j < size; ++j)
      bytes[i + j] = static_cast<std::byte>(words[j / 4] >> (8 * (j % 4)));
  }
  return bytes;
}

inline Buffer poisoned(size_t size) {
  return Buffer(size, std::byte{0xA5});
}

/// Calls body(world) on a thread per rank and returns when all have ended. A rank that throws aborts the
/// world; the first exception, by rank, is rethrown here.
template <class Body>
void run_ranks(const std::vector<std::unique_ptr<World>>& worlds, const Body& body) {
  std::vector<std::exception_ptr> failures(worlds.size());
  std::vector<std::thread> threads;
  for (size_t r = 0; r < worlds.size(); ++r) {
    threads.emplace_back([&, r] {
      try {
        body(*worlds[r]);
      } catch (const std::exception& e) {
        failures[r] = std::current_exception();
        worlds[r]->abort(e.what());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& failure : failures) {
    if (failure) std::rethrow_exception(failure);
  }
}

/// What MPI's allgather is to processes; for any number of rounds.
class Exchange {
 public:
  explicit Exchange(int size) : worlds_(make_loopback_world(size)) {}
  std::vector<std::string> operator()(int rank, const std::string& mine) {
    return worlds_[static_cast<size_t>(rank)]->gather_all(mine);
  }
  ~Exchange() {
    run_ranks(worlds_, [](World& world) { world.finish(); });
  }

 private:
  std::vector<std::unique_ptr<World>> worlds_;
};

inline double process_cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

}  // namespace penstock::testing_ranks
