#include "runtime/comm/staged_channel.h"

#include <list>
#include <utility>
#include <vector>

namespace penstock {
namespace {

/// Host memory of messages under way, kept for the next ones. It belongs to the channel, so that it outlives
/// transfers that are dropped.
class Buffers {
 public:
  using Buffer = std::vector<std::byte>;

  Buffer& take(size_t bytes) {
    if (free_.empty()) free_.emplace_back();
    used_.splice(used_.end(), free_, free_.begin());
    used_.back().resize(bytes);
    return used_.back();
  }
  void give_back(const Buffer& buffer) {
    for (auto it = used_.begin(); it != used_.end(); ++it)
      if (&*it == &buffer) return free_.splice(free_.end(), used_, it);
  }

 private:
  std::list<Buffer> free_;
  std::list<Buffer> used_;
};

class StagedSend final : public Transfer {
 public:
  StagedSend(Buffers& buffers, Buffers::Buffer& buffer, TransferPtr inner)
      : buffers_(buffers), buffer_(&buffer), inner_(std::move(inner)) {}
  bool done() const override { return buffer_ == nullptr || inner_->done(); }
  void wait() override {
    inner_->wait();
    if (buffer_ != nullptr) buffers_.give_back(*std::exchange(buffer_, nullptr));
  }

 private:
  Buffers& buffers_;
  Buffers::Buffer* buffer_;
  TransferPtr inner_;
};

class StagedReceive final : public Transfer {
 public:
  StagedReceive(Device& device, Buffers& buffers, Buffers::Buffer& buffer, void* to, TransferPtr inner)
      : device_(device), buffers_(buffers), buffer_(&buffer), to_(to), inner_(std::move(inner)) {}
  bool done() const override { return buffer_ == nullptr || inner_->done(); }
  void wait() override {
    inner_->wait();
    if (buffer_ == nullptr) return;
    device_.upload(to_, buffer_->data(), buffer_->size());
    buffers_.give_back(*std::exchange(buffer_, nullptr));
  }

 private:
  Device& device_;
  Buffers& buffers_;
  Buffers::Buffer* buffer_;
  void* to_;
  TransferPtr inner_;
};

class StagedSender final : public Sender {
 public:
  StagedSender(Device& device, std::unique_ptr<Sender> inner) : device_(device), inner_(std::move(inner)) {}
  TransferPtr send(ConstBytes message) override {
    Buffers::Buffer& buffer = buffers_.take(message.size());
    device_.download(buffer.data(), message.data(), message.size());
    return std::make_unique<StagedSend>(buffers_, buffer, inner_->send(buffer));
  }

 private:
  Device& device_;
  Buffers buffers_;
  std::unique_ptr<Sender> inner_;
};

class StagedReceiver final : public Receiver {
 public:
  StagedReceiver(Device& device, std::unique_ptr<Receiver> inner)
      : device_(device), inner_(std::move(inner)) {}
  TransferPtr receive(Bytes to) override {
    Buffers::Buffer& buffer = buffers_.take(to.size());
    return std::make_unique<StagedReceive>(device_, buffers_, buffer, to.data(), inner_->receive(buffer));
  }

 private:
  Device& device_;
  Buffers buffers_;
  std::unique_ptr<Receiver> inner_;
};

}  // namespace

std::unique_ptr<Sender> make_staged_sender(Device& device, std::unique_ptr<Sender> host_sender) {
  return std::make_unique<StagedSender>(device, std::move(host_sender));
}

std::unique_ptr<Receiver> make_staged_receiver(Device& device, std::unique_ptr<Receiver> host_receiver) {
  return std::make_unique<StagedReceiver>(device, std::move(host_receiver));
}

}  // namespace penstock
