// The two ends of an edge belong to different processes, so each test forks both; this process never touches
// the GPU.
#include "runtime/comm/cuda_copy_channel.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <functional>
#include <thread>
#include <vector>

#include "runtime/device/device.h"

namespace penstock {
namespace {

constexpr int kSenderRank = 0;
constexpr int kReceiverRank = 1;
constexpr size_t kMiB = size_t{1} << 20;
constexpr std::chrono::seconds kDeadline{60};
constexpr std::chrono::milliseconds kLongEnough{200};  // for any transfer that can end

void require(bool holds, const std::string& what) {
  if (!holds) throw Error(what);
}

/// One process of the two, and its line to the other.
struct Side {
  int line = -1;
  std::unique_ptr<Device> device = make_cuda_device(0);
  std::vector<std::unique_ptr<World>> worlds = make_loopback_world(2);

  void tell(const std::string& text) const {
    require(write(line, text.data(), text.size()) == static_cast<ssize_t>(text.size()), "tell");
  }
  std::string hear(size_t bytes) const {
    std::string text(bytes, '\0');
    for (size_t got = 0; got < bytes;) {
      const ssize_t n = read(line, text.data() + got, bytes - got);
      require(n > 0, "the other process is gone");
      got += static_cast<size_t>(n);
    }
    return text;
  }
  void open(CopyEnd& end) const {
    tell(end.offer());
    require(end.open(hear(end.offer().size())), "the other end cannot be opened");
    tell("o");
    hear(1);
  }
  std::unique_ptr<Sender> sender() {
    const auto end = make_copy_sending_end(*worlds[kSenderRank], *device, kReceiverRank);
    open(*end);
    return end->connect_sender();
  }
  std::unique_ptr<Receiver> receiver() {
    const auto end = make_copy_receiving_end(*worlds[kReceiverRank], *device, kSenderRank);
    open(*end);
    return end->connect_receiver();
  }
};

pid_t start(int line, int line_of_other, const std::function<void(Side&)>& play) {
  std::fflush(nullptr);
  const pid_t pid = fork();
  if (pid != 0) return pid;
  close(line_of_other);
  try {
    Side side{line};
    play(side);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    _exit(1);
  }
  _exit(0);
}

/// Runs both ends to their end; fails when one does, or takes longer than kDeadline.
void play_both(const std::function<void(Side&)>& sending, const std::function<void(Side&)>& receiving) {
  int lines[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, lines), 0);
  const pid_t pids[] = {start(lines[0], lines[1], sending), start(lines[1], lines[0], receiving)};
  close(lines[0]);
  close(lines[1]);
  const auto end = std::chrono::steady_clock::now() + kDeadline;
  for (const pid_t pid : pids) {
    int status = 0;
    while (waitpid(pid, &status, WNOHANG) == 0) {
      if (std::chrono::steady_clock::now() > end) kill(pid, SIGKILL);
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0)
        << (pid == pids[0] ? "the sending" : "the receiving") << " process, status " << status;
  }
}

/// Skips where there is no GPU, which another process finds out.
class CopyChannel : public ::testing::Test {
 protected:
  void SetUp() override {
    const pid_t pid = fork();
    if (pid == 0) {
      try {
        make_cuda_device(0);
      } catch (const UsageError&) {
        _exit(1);
      }
      _exit(0);
    }
    int status = 0;
    ASSERT_EQ(waitpid(pid, &status, 0), pid);
    ASSERT_TRUE(WIFEXITED(status)) << "status " << status;
    if (WEXITSTATUS(status) != 0) GTEST_SKIP() << "no GPU here";
  }
};

std::vector<std::byte> message(size_t bytes, unsigned seed) {
  std::vector<std::byte> made(bytes);
  for (size_t i = 0; i < bytes; ++i) made[i] = static_cast<std::byte>((i * 2654435761U + seed) >> 13);
  return made;
}

// The ring is 64 MiB in pieces of 8.
const std::vector<size_t> kSizes{1, 4096, 8 * kMiB - 1, 8 * kMiB, 8 * kMiB + 1, 150 * kMiB, 16, 64 * kMiB};

TEST_F(CopyChannel, MessagesOfAnySizeArriveWholeAndInOrder) {
  play_both(
      [](Side& side) {
        const auto sender = side.sender();
        for (unsigned i = 0; i < kSizes.size(); ++i) {
          const Tensor from = side.device->tensor(DType::i8, {static_cast<int64_t>(kSizes[i])});
          side.device->upload(from.view.data, message(kSizes[i], i).data(), kSizes[i]);
          sender->send({from.view.as<const std::byte>(), kSizes[i]})->wait();
        }
      },
      [](Side& side) {
        const auto receiver = side.receiver();
        for (unsigned i = 0; i < kSizes.size(); ++i) {
          std::vector<std::byte> found(kSizes[i], std::byte{0xA5});
          const Tensor to = side.device->tensor(DType::i8, {static_cast<int64_t>(kSizes[i])});
          side.device->upload(to.view.data, found.data(), kSizes[i]);
          side.device->synchronize();  // a receive does not wait for the device
          receiver->receive({to.view.as<std::byte>(), kSizes[i]})->wait();
          side.device->download(found.data(), to.view.data, kSizes[i]);
          require(found == message(kSizes[i], i), "message " + std::to_string(i) + " arrived changed");
        }
      });
}

TEST_F(CopyChannel, ManyTransfersUnderWayKeepTheirOrder) {
  constexpr unsigned kMessages = 40;
  constexpr size_t kBytes = 5 * kMiB + 4;
  play_both(
      [](Side& side) {
        const auto sender = side.sender();
        const Tensor from = side.device->tensor(DType::i8, {kMessages, kBytes});
        std::vector<TransferPtr> under_way;
        for (unsigned i = 0; i < kMessages; ++i) {
          std::byte* const at = from.view.as<std::byte>() + i * kBytes;
          side.device->upload(at, message(kBytes, i).data(), kBytes);
          under_way.push_back(sender->send({at, kBytes}));
        }
        std::this_thread::sleep_for(kLongEnough);
        require(!under_way.back()->done(), "200 MB were taken by a ring of 64");
        side.tell("r");  // only now does the other end begin to receive
        for (const TransferPtr& transfer : under_way) transfer->wait();
      },
      [](Side& side) {
        const auto receiver = side.receiver();
        side.hear(1);
        const Tensor to = side.device->tensor(DType::i8, {kMessages, kBytes});
        std::vector<TransferPtr> under_way;
        for (unsigned i = 0; i < kMessages; ++i)
          under_way.push_back(receiver->receive({to.view.as<std::byte>() + i * kBytes, kBytes}));
        for (const TransferPtr& transfer : under_way) transfer->wait();
        std::vector<std::byte> found(kBytes);
        for (unsigned i = 0; i < kMessages; ++i) {
          side.device->download(found.data(), to.view.as<std::byte>() + i * kBytes, kBytes);
          require(found == message(kBytes, i), "message " + std::to_string(i) + " arrived changed");
        }
      });
}

TEST_F(CopyChannel, AReceiveThatNobodyAnswersEndsWithItsEdge) {
  play_both([](Side& side) { const auto sender = side.sender(); },
            [](Side& side) {
              auto receiver = side.receiver();
              const Tensor to = side.device->tensor(DType::i8, {4096});
              TransferPtr waiting = receiver->receive({to.view.as<std::byte>(), 4096});
              std::this_thread::sleep_for(kLongEnough);
              require(!waiting->done(), "a message that nobody sent");
              waiting.reset();
              receiver.reset();
              side.device->synchronize();
            });
}

TEST_F(CopyChannel, ASendThatNobodyTakesEndsWithItsEdge) {
  play_both(
      [](Side& side) {
        auto sender = side.sender();
        const Tensor from = side.device->tensor(DType::i8, {static_cast<int64_t>(100 * kMiB)});
        TransferPtr waiting = sender->send({from.view.as<const std::byte>(), 100 * kMiB});
        std::this_thread::sleep_for(kLongEnough);
        require(!waiting->done(), "100 MB were taken by a ring of 64");
        waiting.reset();
        sender.reset();
        side.device->synchronize();
        side.tell("e");
      },
      [](Side& side) {
        const auto receiver = side.receiver();
        side.hear(1);
      });
}

TEST_F(CopyChannel, AnOfferThatIsNoneIsNotOpened) {
  play_both(
      [](Side& side) {
        const auto end = make_copy_sending_end(*side.worlds[kSenderRank], *side.device, kReceiverRank);
        require(!end->open(""), "opened nothing");
        require(!end->open(std::string(end->offer().size(), '\x5a')), "opened noise");
      },
      [](Side&) {});
}

}  // namespace
}  // namespace penstock
