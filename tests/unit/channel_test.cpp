// The contract of channel.h and world.h, the same bodies for every world whose ranks can be threads of one
// process.
#include "runtime/comm/channel.h"

#include <gtest/gtest.h>

#include <random>
#include <thread>

#include "runtime/comm/ucx_world.h"
#include "runtime/comm/world.h"
#include "tests/unit/ranks.h"

namespace penstock {
namespace {

using testing_ranks::Buffer;
using testing_ranks::poisoned;
using testing_ranks::random_bytes;
using testing_ranks::run_ranks;

struct Kind {
  const char* name;
  std::vector<std::unique_ptr<World>> (*make)(int size);
};

/// Ranks as threads, each with a UCX worker of its own.
std::vector<std::unique_ptr<World>> make_ucx_threads(int size) {
  testing_ranks::Exchange exchange(size);
  std::vector<std::unique_ptr<World>> worlds(static_cast<size_t>(size));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank) {
    threads.emplace_back([&, rank] {
      UcxWorldOptions options;
      options.rank = rank;
      options.size = size;
      options.exchange = [&](const std::string& mine) { return exchange(rank, mine); };
      worlds[static_cast<size_t>(rank)] = make_ucx_world(options);
    });
  }
  for (std::thread& thread : threads) thread.join();
  return worlds;
}

class Channel : public testing::TestWithParam<Kind> {
 protected:
  static std::vector<std::unique_ptr<World>> make(int size) { return GetParam().make(size); }
};

TEST_P(Channel, CarriesEverySizeByteForByte) {
  const auto worlds = make(2);
  const std::vector<size_t> sizes{0, 1, 7, 64, 8 << 10, (8 << 10) + 1, 100'000, 1 << 20, 8 << 20};
  run_ranks(worlds, [&](World& world) {
    for (const size_t size : sizes) {
      const Buffer sent = random_bytes(size, size + 1);
      if (world.rank() == 0) {
        world.sender(1)->send(sent)->wait();
      } else {
        Buffer received = poisoned(size + 16);
        world.receiver(0)->receive(Bytes(received).first(size))->wait();
        EXPECT_EQ(Buffer(received.end() - 16, received.end()), poisoned(16))
            << "written beyond the end, size " << size;
        received.resize(size);
        EXPECT_TRUE(received == sent) << size;
      }
    }
    world.finish();
  });
}

TEST_P(Channel, MessagesArriveInTheOrderTheyWereSent) {
  const auto worlds = make(2);
  constexpr int kMessages = 200;
  // Sizes on both sides of every protocol switch, so that a later small one could overtake an earlier large
  // one.
  const auto size_of = [](int i) {
    return static_cast<size_t>(i % 3 == 0 ? 1 << 20 : i % 3 == 1 ? 17 : 9000) + static_cast<size_t>(i);
  };
  run_ranks(worlds, [&](World& world) {
    if (world.rank() == 0) {
      std::vector<Buffer> messages;
      std::vector<TransferPtr> sends;
      const auto sender = world.sender(1);
      for (int i = 0; i < kMessages; ++i)
        messages.push_back(random_bytes(size_of(i), static_cast<uint64_t>(i)));
      for (const Buffer& message : messages) sends.push_back(sender->send(message));
      for (const TransferPtr& send : sends) send->wait();
    } else {
      const auto receiver = world.receiver(0);
      for (int i = 0; i < kMessages; ++i) {
        Buffer received = poisoned(size_of(i));
        receiver->receive(received)->wait();
        ASSERT_EQ(received, random_bytes(size_of(i), static_cast<uint64_t>(i))) << i;
      }
    }
    world.finish();
  });
}

TEST_P(Channel, AReceiveMayBePostedBeforeOrAfterItsMessage) {
  const auto worlds = make(2);
  run_ranks(worlds, [&](World& world) {
    for (const size_t size : {size_t{100}, size_t{4} << 20}) {
      const Buffer first = random_bytes(size, 1);
      const Buffer second = random_bytes(size, 2);
      if (world.rank() == 0) {
        // Says when it may be sent: after the receive was posted.
        EXPECT_EQ(world.control().receive().payload, "posted");
        const auto sender = world.sender(1);
        sender->send(first)->wait();
        const TransferPtr send = sender->send(second);
        world.control().send(1, ControlKind::plan, "sent");
        send->wait();
      } else {
        const auto receiver = world.receiver(0);
        Buffer received = poisoned(size);
        const TransferPtr early = receiver->receive(received);
        EXPECT_FALSE(early->done());
        world.control().send(0, ControlKind::plan, "posted");
        early->wait();
        EXPECT_EQ(received, first);
        EXPECT_EQ(world.control().receive().payload, "sent");
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        received = poisoned(size);
        receiver->receive(received)->wait();
        EXPECT_EQ(received, second);
      }
    }
    world.finish();
  });
}

TEST_P(Channel, ARingWith64MessagesInFlightDoesNotHang) {
  for (const size_t size : {size_t{8} << 10, size_t{256} << 10}) {
    const auto worlds = make(4);
    run_ranks(worlds, [&](World& world) {
      constexpr int kInFlight = 64;
      const int n = world.size();
      const auto sender = world.sender((world.rank() + 1) % n);
      const auto receiver = world.receiver((world.rank() + n - 1) % n);
      const Buffer mine = random_bytes(size, static_cast<uint64_t>(world.rank()));
      const Buffer theirs = random_bytes(size, static_cast<uint64_t>((world.rank() + n - 1) % n));
      std::vector<TransferPtr> transfers;
      for (int i = 0; i < kInFlight; ++i) transfers.push_back(sender->send(mine));
      std::vector<Buffer> received(kInFlight, poisoned(size));
      for (Buffer& buffer : received) transfers.push_back(receiver->receive(buffer));
      for (const TransferPtr& transfer : transfers) transfer->wait();
      for (const Buffer& buffer : received) ASSERT_EQ(buffer, theirs);
      world.finish();
    });
  }
}

TEST_P(Channel, AnotherSizeIsAnErrorThatNamesBothAndWritesNothing) {
  for (const size_t size : {size_t{100}, size_t{4} << 20}) {
    const auto worlds = make(2);
    run_ranks(worlds, [&](World& world) {
      if (world.rank() == 0) {
        const Buffer message = random_bytes(size, 3);
        world.sender(1)->send(message)->wait();
      } else {
        Buffer received = poisoned(size);
        try {
          world.receiver(0)->receive(Bytes(received).first(size - 1))->wait();
          ADD_FAILURE() << "a wrong size was accepted";
        } catch (const Error& e) {
          EXPECT_NE(std::string(e.what()).find(std::to_string(size) + " bytes"), std::string::npos)
              << e.what();
          EXPECT_NE(std::string(e.what()).find("has " + std::to_string(size - 1)), std::string::npos)
              << e.what();
        }
        EXPECT_EQ(received, poisoned(size));
      }
      world.finish();
    });
  }
}

TEST_P(Channel, ControlMessagesKeepTheirOrderPerPairAndTheirSender) {
  const auto worlds = make(3);
  run_ranks(worlds, [&](World& world) {
    constexpr int kMessages = 300;
    if (world.rank() != 0) {
      for (int i = 0; i < kMessages; ++i) {
        // Some long enough for another protocol.
        world.control().send(0, ControlKind::step_result,
                             std::to_string(i) + std::string(i % 50 == 0 ? 300'000 : 3, 'x'));
      }
    } else {
      std::vector<int> next(3, 0);
      for (int i = 0; i < 2 * kMessages; ++i) {
        const ControlMessage message = world.control().receive();
        EXPECT_EQ(message.kind, ControlKind::step_result);
        int& expected = next.at(static_cast<size_t>(message.from));
        ASSERT_EQ(std::stoi(message.payload), expected) << "from rank " << message.from;
        ++expected;
      }
      EXPECT_EQ(next, (std::vector<int>{0, kMessages, kMessages}));
      ControlMessage none;
      EXPECT_FALSE(world.control().try_receive(none));
    }
    world.finish();
  });
}

TEST_P(Channel, ARankMaySendControlMessagesToItself) {
  const auto worlds = make(2);
  run_ranks(worlds, [&](World& world) {
    world.control().send(world.rank(), ControlKind::finish, "me");
    const ControlMessage message = world.control().receive();
    EXPECT_EQ(message.from, world.rank());
    EXPECT_EQ(message.payload, "me");
    world.finish();
  });
}

TEST_P(Channel, GatherAllGivesEveryTextByRank) {
  const auto worlds = make(4);
  run_ranks(worlds, [&](World& world) {
    for (int round = 0; round < 20; ++round) {
      const auto texts = world.gather_all(std::to_string(round) + "/" + std::to_string(world.rank()));
      ASSERT_EQ(texts.size(), 4U);
      for (size_t r = 0; r < 4; ++r) ASSERT_EQ(texts[r], std::to_string(round) + "/" + std::to_string(r));
    }
    world.finish();
  });
}

TEST_P(Channel, AnAbortWakesEveryWaiterWithTheRankAndTheReason) {
  const auto worlds = make(4);
  const auto expect_abort = [](World& world, const auto& wait) {
    try {
      wait();
      ADD_FAILURE() << "rank " << world.rank() << " did not notice the abort";
    } catch (const WorldAborted& e) {
      EXPECT_EQ(e.failed_rank(), 3);
      EXPECT_EQ(e.status(), ExitStatus::bad_usage);
      EXPECT_NE(std::string(e.what()).find("rank 3"), std::string::npos) << e.what();
      EXPECT_NE(std::string(e.what()).find("the disk is full"), std::string::npos) << e.what();
    }
  };
  run_ranks(worlds, [&](World& world) {
    Buffer buffer = poisoned(1 << 20);
    switch (world.rank()) {
      case 0:
        expect_abort(world, [&] { world.control().receive(); });
        break;
      case 1:
        expect_abort(world, [&] { world.receiver(2)->receive(buffer)->wait(); });
        break;
      case 2:
        expect_abort(world, [&] { world.gather_all("here"); });
        break;
      default:
        std::this_thread::sleep_for(std::chrono::milliseconds(100));
        world.abort("the disk is full", ExitStatus::bad_usage);
    }
    // And whoever waits later learns it as well.
    expect_abort(world, [&] { world.control().receive(); });
    expect_abort(world, [&] { world.receiver(0)->receive(buffer)->wait(); });
    expect_abort(world, [&] { world.sender(0)->send(buffer)->wait(); });
  });
}

TEST_P(Channel, OfTwoAbortsTheFirstIsTheReasonEverywhere) {
  const auto worlds = make(3);
  std::vector<std::string> reasons(3);
  run_ranks(worlds, [&](World& world) {
    world.abort("reason " + std::to_string(world.rank()));
    try {
      world.control().receive();
    } catch (const WorldAborted& e) {
      reasons.at(static_cast<size_t>(world.rank())) = e.what();
    }
  });
  EXPECT_NE(reasons[0], "");
  EXPECT_EQ(reasons[1], reasons[0]);
  EXPECT_EQ(reasons[2], reasons[0]);
}

TEST_P(Channel, AWorldLeftWithoutFinishingEndsTheOthers) {
  auto worlds = make(2);
  std::thread leaving([&] { worlds[0].reset(); });
  try {
    worlds[1]->control().receive();
    ADD_FAILURE() << "a message from nobody";
  } catch (const WorldAborted& e) {
    EXPECT_EQ(e.failed_rank(), 0);
  }
  leaving.join();
}

TEST_P(Channel, ARankThatOnlyWaitsUsesUnderTwoPercentOfACore) {
  const auto worlds = make(2);
  const double before = testing_ranks::process_cpu_seconds();
  constexpr double kSeconds = 1.5;
  run_ranks(worlds, [&](World& world) {
    if (world.rank() == 0) {
      std::this_thread::sleep_for(std::chrono::duration<double>(kSeconds));
      const double used = testing_ranks::process_cpu_seconds() - before;
      EXPECT_LT(used / kSeconds, 2 * 0.02) << "share of a core for two ranks";
      world.control().send(1, ControlKind::finish, "");
    } else {
      world.control().receive();
    }
    world.finish();
  });
}

TEST_P(Channel, AWorldOfOneRankNeedsNobody) {
  const auto worlds = make(1);
  World& world = *worlds.front();
  EXPECT_EQ(world.size(), 1);
  EXPECT_EQ(world.local_size(), 1);
  EXPECT_EQ(world.gather_all("alone"), std::vector<std::string>{"alone"});
  EXPECT_FALSE(world.report_lost_peer());
  world.finish();
}

INSTANTIATE_TEST_SUITE_P(Worlds, Channel,
                         testing::Values(Kind{"loopback", make_loopback_world},
                                         Kind{"ucx", make_ucx_threads}),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace penstock
