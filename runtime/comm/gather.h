// Everyone's text at every rank, by way of rank 0. The object knows who has said what; its owner carries the
// messages. Any thread.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "runtime/comm/waiting.h"

namespace penstock {

class Gather {
 public:
  using Texts = std::vector<std::string>;

  explicit Gather(int size) : parts_(static_cast<size_t>(size)) {}

  /// On rank 0: a rank's text. Returns everyone's as soon as there is one of each; send it to the others.
  std::optional<Texts> add(int from, std::string text);
  /// Everyone's text has come: one wait() returns it.
  void publish(Texts texts);
  void fail(const Fault& fault);
  /// Sleeps until published; nothing when `timeout` passes first. Throws as raise() does.
  std::optional<Texts> wait(std::chrono::milliseconds timeout);
  /// On rank 0: the ranks whose text is missing.
  std::vector<int> missing();

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::deque<std::string>>
      parts_;  // a rank that has its answer may start the next round before others
  std::deque<Texts> published_;
  std::optional<Fault> fault_;
};

}  // namespace penstock
