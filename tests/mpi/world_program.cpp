// What world_test.cpp starts under mpirun: one rank of a world that does as its first argument says. Its main
// is what a program over a World looks like.
#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "runtime/base/error.h"
#include "runtime/base/log.h"
#include "runtime/comm/world.h"
#include "tests/unit/ranks.h"

namespace penstock {
namespace {

using namespace std::chrono_literals;
using testing_ranks::Buffer;
using testing_ranks::poisoned;
using testing_ranks::random_bytes;

void expect(bool holds, const std::string& what) {
  if (!holds) throw Error("expected " + what);
}

/// 64 messages in flight on every edge of a ring, of each size, checked byte for byte.
void ring(World& world) {
  constexpr size_t kInFlight = 64;
  const int next = (world.rank() + 1) % world.size();
  const int previous = (world.rank() + world.size() - 1) % world.size();
  const auto sender = world.sender(next);
  const auto receiver = world.receiver(previous);
  for (const size_t size : {size_t{8} << 10, size_t{64} << 10, size_t{1} << 20, size_t{8} << 20}) {
    // Above 1 MiB the 64 messages share their bytes, so that the test fits into a small machine.
    const size_t buffers = size > (1 << 20) ? 4 : kInFlight;
    const auto content = [&](int rank, size_t i) {
      return random_bytes(size, static_cast<uint64_t>(rank) * 1000 + i);
    };
    std::vector<Buffer> sent;
    for (size_t i = 0; i < buffers; ++i) sent.push_back(content(world.rank(), i));
    std::vector<TransferPtr> sends;
    for (size_t i = 0; i < kInFlight; ++i) sends.push_back(sender->send(sent[i % buffers]));
    for (size_t i = 0; i < kInFlight; i += buffers) {
      std::vector<Buffer> received(buffers, poisoned(size));
      std::vector<TransferPtr> receives;
      for (Buffer& buffer : received) receives.push_back(receiver->receive(buffer));
      for (size_t j = 0; j < buffers; ++j) {
        receives[j]->wait();
        if (i == 0 || j == 0)
          expect(received[j] == content(previous, j), "message " + std::to_string(i + j) + " unchanged");
      }
    }
    for (const TransferPtr& send : sends) send->wait();
  }
}

/// The same world, driven by one thread per rank, does what channel_test.cpp asks of threads.
void chat(World& world) {
  for (int round = 0; round < 200; ++round) {
    if (world.rank() == 0) {
      for (int r = 1; r < world.size(); ++r)
        world.control().send(r, ControlKind::plan, std::to_string(round));
      for (int r = 1; r < world.size(); ++r) {
        expect(world.control().receive().payload == std::to_string(round), "the answer of this round");
      }
    } else {
      const ControlMessage message = world.control().receive();
      expect(message.from == 0 && message.kind == ControlKind::plan, "a plan of rank 0");
      expect(message.payload == std::to_string(round), "round " + std::to_string(round));
      world.control().send(0, ControlKind::step_result, message.payload);
    }
  }
  const auto texts = world.gather_all(std::to_string(world.rank()));
  for (int r = 0; r < world.size(); ++r)
    expect(texts[static_cast<size_t>(r)] == std::to_string(r), "texts by rank");
  int neighbours = 0;
  for (int r = 0; r < world.size(); ++r)
    neighbours += world.info(r).host == world.info(world.rank()).host ? 1 : 0;
  expect(world.local_size() == neighbours && world.local_rank() < neighbours,
         "the ranks of this host counted");
  if (world.rank() == 0) std::printf("chat ok\n");
}

void idle(World& world) {
  world.gather_all("");
  const double before = testing_ranks::process_cpu_seconds();
  constexpr double kSeconds = 2;
  std::thread clock;
  if (world.rank() == 0) {
    clock = std::thread([&] {
      std::this_thread::sleep_for(std::chrono::duration<double>(kSeconds));
      for (int r = 0; r < world.size(); ++r) world.control().send(r, ControlKind::finish, "");
    });
  }
  world.control().receive();
  std::printf("idle rank %d: %.2f %% of a core\n", world.rank(),
              100 * (testing_ranks::process_cpu_seconds() - before) / kSeconds);
  if (clock.joinable()) clock.join();
}

/// One-way times between ranks 0 and 1: half of a round trip, both threads of both ranks asleep in between
/// where `gap` is long.
void latency(World& world, std::chrono::microseconds gap) {
  if (world.rank() > 1) return;
  const auto sender = world.sender(1 - world.rank());
  const auto receiver = world.receiver(1 - world.rank());
  for (const size_t size : {size_t{8}, size_t{16} << 10, size_t{1} << 20}) {
    const Buffer sent = random_bytes(size, 1);
    Buffer received(size);
    std::vector<double> times;
    for (int i = 0; i < 400; ++i) {
      const TransferPtr receive = receiver->receive(received);
      if (world.rank() == 0) {
        std::this_thread::sleep_for(gap);
        const auto start = std::chrono::steady_clock::now();
        sender->send(sent)->wait();
        receive->wait();
        times.push_back(
            std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count() / 2);
      } else {
        receive->wait();
        sender->send(sent)->wait();
      }
    }
    std::sort(times.begin(), times.end());
    if (world.rank() == 0) {
      std::printf("one way, %7zu B, gap %5ld us: median %.1f us, 90 %% below %.1f us\n", size,
                  static_cast<long>(gap.count()), times[times.size() / 2], times[times.size() * 9 / 10]);
    }
  }
}

/// Says where it is and then waits in a way of its own, for the test to kill somebody.
void wait_forever(World& world) {
  world.gather_all("");
  std::printf("rank %d pid %d\n", world.rank(), static_cast<int>(getpid()));
  std::fflush(stdout);
  Buffer buffer(1 << 20);
  switch (world.rank() % 4) {
    case 0:
      world.control().receive();
      break;
    case 1:
      world.receiver(0)->receive(buffer)->wait();
      break;
    case 2:
      world.sender(0)->send(buffer)->wait();
      break;
    default:
      std::this_thread::sleep_for(1h);  // computes, and never looks
  }
}

/// The last rank fails; the others wait.
void fail(World& world, ExitStatus status) {
  if (world.rank() == world.size() - 1) throw Error("the tensor x has the wrong shape", status);
  wait_forever(world);
}

/// What a program does at SIGTERM: a drain would stand here, but a dead neighbour comes first. Ends before
/// the world does.
class TermWatch {
 public:
  TermWatch(World& world, sigset_t term)
      : thread_([this, &world, term] {
          int signal = 0;
          sigwait(&term, &signal);
          if (!over_ && !world.report_lost_peer()) std::_Exit(128 + signal);
        }) {}
  ~TermWatch() {
    over_ = true;
    pthread_kill(thread_.native_handle(), SIGTERM);
    thread_.join();
  }

 private:
  std::atomic<bool> over_{false};
  std::thread thread_;
};

int play(const std::vector<std::string>& arguments) {
  MpiOptions options;
  if (const char* deadline = std::getenv("WORLD_DEADLINE")) {
    options.init_deadline_seconds = options.gather_deadline_seconds = std::atof(deadline);
  }
  sigset_t term;
  sigemptyset(&term);
  sigaddset(&term, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &term, nullptr);

  int status = 0;
  auto linger = 0ms;
  std::unique_ptr<World> world;
  try {
    world = make_mpi_world(options);
    const TermWatch watch(*world, term);
    const std::map<std::string, std::function<void()>> parts{
        {"ring", [&] { ring(*world); }},
        {"chat", [&] { chat(*world); }},
        {"idle", [&] { idle(*world); }},
        {"latency",
         [&] {
           latency(*world, 0us);
           latency(*world, 2000us);
         }},
        {"wait", [&] { wait_forever(*world); }},
        {"fail", [&] { fail(*world, ExitStatus::runtime_failure); }},
        {"refuse", [&] { fail(*world, ExitStatus::bad_usage); }},
        {"all-refuse", [&] { throw UsageError("there is no model here"); }},
        {"leave",
         [&] {
           if (world->rank() == 1) std::_Exit(0);
           wait_forever(*world);
         }},
        {"stop",  // in good order, with a status at which mpirun sends SIGTERM to those that take longer
         [&] {
           status = static_cast<int>(ExitStatus::stopped);
           if (world->rank() != 1) linger = 1500ms;
         }},
        {"skip-gather",
         [&] {
           if (world->rank() == 1) std::this_thread::sleep_for(1h);
           world->gather_all("");
         }},
    };
    for (const std::string& argument : arguments) parts.at(argument)();
    world->finish();
    std::this_thread::sleep_for(linger);
    return status;
  } catch (const WorldAborted& e) {
    return static_cast<int>(e.status());
  } catch (const Error& e) {
    if (world) {
      world->abort(e.what(), e.status());
    } else {
      log::error(e.what());
    }
    return static_cast<int>(e.status());
  }
}

}  // namespace
}  // namespace penstock

int main(int argc, char** argv) {
  return penstock::play({argv + 1, argv + argc});
}
