#include "runtime/comm/staged_channel.h"

#include <gtest/gtest.h>

#include "tests/unit/ranks.h"

namespace penstock {
namespace {

using testing_ranks::Buffer;
using testing_ranks::poisoned;
using testing_ranks::random_bytes;
using testing_ranks::run_ranks;

TEST(StagedChannel, CarriesMessagesBothOfWhoseEndsAreStaged) {
  const auto worlds = make_loopback_world(2);
  run_ranks(worlds, [](World& world) {
    const auto device = make_cpu_device();
    if (world.rank() == 0) {
      const auto sender = make_staged_sender(*device, world.sender(1));
      for (uint64_t i = 0; i < 20; ++i) sender->send(random_bytes(i * 1000, i))->wait();
    } else {
      const auto receiver = make_staged_receiver(*device, world.receiver(0));
      for (uint64_t i = 0; i < 20; ++i) {
        Buffer found = poisoned(i * 1000);
        receiver->receive(found)->wait();
        EXPECT_EQ(found, random_bytes(i * 1000, i)) << i;
      }
    }
    world.finish();
  });
}

TEST(StagedChannel, AMessageMayBeChangedOnceItIsSentAndReceivesMayBePostedAhead) {
  const auto worlds = make_loopback_world(2);
  run_ranks(worlds, [](World& world) {
    const auto device = make_cpu_device();
    constexpr size_t kSize = 5000;
    if (world.rank() == 0) {
      const auto sender = make_staged_sender(*device, world.sender(1));
      std::vector<TransferPtr> sending;
      Buffer message;
      for (uint64_t i = 0; i < 4; ++i) {
        message = random_bytes(kSize, i);
        sending.push_back(sender->send(message));
      }
      message = poisoned(kSize);
      world.gather_all({});
      for (const TransferPtr& transfer : sending) transfer->wait();
    } else {
      const auto receiver = make_staged_receiver(*device, world.receiver(0));
      std::vector<Buffer> found(4, poisoned(kSize));
      std::vector<TransferPtr> receiving;
      world.gather_all({});
      for (Buffer& buffer : found) receiving.push_back(receiver->receive(buffer));
      for (uint64_t i = 0; i < 4; ++i) {
        receiving[i]->wait();
        receiving[i]->wait();  // a second time does nothing
        EXPECT_TRUE(receiving[i]->done());
        EXPECT_EQ(found[i], random_bytes(kSize, i)) << i;
      }
    }
    world.finish();
  });
}

TEST(StagedChannel, AMessageOfAnotherSizeIsAnErrorThatLeavesTheDeviceAlone) {
  const auto worlds = make_loopback_world(2);
  run_ranks(worlds, [](World& world) {
    const auto device = make_cpu_device();
    if (world.rank() == 0) {
      make_staged_sender(*device, world.sender(1))->send(random_bytes(10, 1))->wait();
    } else {
      Buffer buffer = poisoned(11);
      const auto receiver = make_staged_receiver(*device, world.receiver(0));
      const TransferPtr transfer = receiver->receive(buffer);
      EXPECT_THROW(transfer->wait(), Error);
      EXPECT_EQ(buffer, poisoned(11));
    }
    world.finish();
  });
}

}  // namespace
}  // namespace penstock
