#include "runtime/comm/ucx_world.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <set>
#include <utility>

#include "proto/wire.pb.h"
#include "runtime/base/log.h"
#include "runtime/comm/gather.h"
#include "runtime/comm/host.h"
#include "runtime/comm/liveness.h"
#include "runtime/comm/ucx_port.h"
#include "runtime/comm/waiting.h"

namespace penstock {
namespace {

using std::chrono::milliseconds;

/// Control messages of the world itself; a ControlKind is below 2^16.
enum Internal : uint32_t {
  kFirstInternal = 1 << 16,
  kHeartbeat = kFirstInternal,
  kGatherPart,    // to rank 0: a text
  kGatherResult,  // from rank 0: proto::Gathered
  kDone,          // to rank 0: this rank has succeeded
  kAllDone,       // from rank 0: every rank has
  kLeaving,       // to rank 0: kAllDone has come, nothing more will be said
  kReport,        // to rank 0: proto::Failure, for it to judge
  kVerdict,       // to everyone: proto::Failure, the end of the world
  kVerdictHeard,  // back to the judge
  kStop,          // to rank 0: why this rank asks for the job's end in good order
};

// How long the others have to confirm that they know of the end, before connections are closed under them.
constexpr milliseconds kVerdictDeadline{1000};
// How long rank 0 has to judge before another rank does; each further rank waits a little longer, so that one
// speaks.
constexpr milliseconds kJudgeDeadline{1000};
constexpr milliseconds kNextJudge{200};
constexpr int kMostJudges = 5;
// A confirmation leaves within this time.
constexpr milliseconds kPartingWords{20};
constexpr milliseconds kAbortDeadline{3500};
constexpr milliseconds kEndOfProcess{2000};
constexpr milliseconds kFarewellDeadline{5000};
constexpr milliseconds kGatherNote{10'000};

std::string encode(const Fault& fault) {
  proto::Failure failure;
  failure.set_failed_rank(fault.failed_rank);
  failure.set_message(fault.message);
  failure.set_exit_status(static_cast<int>(fault.status));
  return failure.SerializeAsString();
}

ExitStatus status_of(const proto::Failure& failure) {
  for (const ExitStatus known : {ExitStatus::bad_usage, ExitStatus::stopped})
    if (failure.exit_status() == static_cast<int>(known)) return known;
  return ExitStatus::runtime_failure;
}

class UcxSender : public Sender {
 public:
  UcxSender(UcxPort& port, int to) : port_(port), to_(to) {}
  TransferPtr send(ConstBytes message) override {
    auto sent = std::make_shared<Completion>();
    port_.send(to_, message, sent);
    return make_transfer(std::move(sent));
  }

 private:
  UcxPort& port_;
  int to_;
};

class UcxReceiver : public Receiver {
 public:
  UcxReceiver(UcxPort& port, int from) : port_(port), from_(from) {}
  TransferPtr receive(Bytes buffer) override {
    auto received = std::make_shared<Completion>();
    port_.receive(from_, buffer, received);
    return make_transfer(std::move(received));
  }

 private:
  UcxPort& port_;
  int from_;
};

/// Members with the comment "loop" belong to the loop's thread.
class UcxWorld : public World, private ControlPlane {
 public:
  UcxWorld(const UcxWorldOptions& options, std::vector<RankInfo> infos, std::vector<std::string> places);
  ~UcxWorld() override;

  int rank() const override { return options_.rank; }
  int size() const override { return options_.size; }
  int local_size() const override;
  int local_rank() const override;
  const RankInfo& info(int rank) const override;
  ControlPlane& control() override { return *this; }
  std::unique_ptr<Sender> sender(int to) override {
    return std::make_unique<UcxSender>(port_, info(to).rank);
  }
  std::unique_ptr<Receiver> receiver(int from) override {
    return std::make_unique<UcxReceiver>(port_, info(from).rank);
  }
  std::vector<std::string> gather_all(const std::string& mine) override;
  void request_stop(const std::string& reason) override;
  StopRequests& stop_requests() override { return stop_requests_; }
  bool report_lost_peer() noexcept override;
  void abort(const std::string& reason, ExitStatus status) noexcept override;
  void finish() override;

 private:
  void send(int to, ControlKind kind, std::string payload) override;
  ControlMessage receive(Line line) override { return inbox_.pop(line); }
  bool try_receive(ControlMessage& message) override { return inbox_.try_pop(message); }
  void hear_live_reports(std::function<void(const ControlMessage&)> hear) override {
    inbox_.hear_live_reports(std::move(hear));
  }

  bool is_judge() const { return options_.rank == 0; }
  bool process_gone(int rank) const;
  void end_world(const Fault& fault) noexcept;
  void tell_others(Internal kind, const std::string& payload);
  std::vector<std::string> gather(Gather& gather, Internal part, const std::string& mine);

  // All on the loop's thread.
  void heard(int from, uint32_t kind, std::string payload);
  void collect(Gather& gather, int from, std::string text, Internal result);
  void tick();
  void lost(int peer, const std::string& why);
  void fail(const Fault& fault);
  void judge(const Fault& fault);
  void excuse(std::set<int>& awaited, int peer);
  void settle();
  void loop_broke(const std::string& why);

  const UcxWorldOptions options_;
  const std::vector<RankInfo> infos_;
  const std::vector<std::string> places_;  // this_place() of each
  Inbox inbox_;
  Gather gather_;
  Gather farewell_;
  StopRequests stop_requests_;
  std::optional<Liveness> liveness_;  // loop
  std::optional<Fault> verdict_;      // loop: why the world ends
  bool reported_ = false;             // loop: rank 0 has been told why this rank fails
  bool said_done_ = false;            // loop
  bool all_done_ = false;             // loop: the world has ended well
  std::set<int> lost_;                // loop: ranks whose connection broke
  std::set<int> unaware_;             // loop: ranks that have not confirmed the verdict
  std::set<int> staying_;             // loop, rank 0: ranks that have not confirmed the good end
  Completion all_left_;
  std::atomic<bool> finished_ = false;

  std::mutex mutex_;  // guards settled_
  std::condition_variable settled_changed_;
  bool settled_ = false;

  UcxPort port_;  // last: its thread uses everything above
};

UcxWorld::UcxWorld(const UcxWorldOptions& options, std::vector<RankInfo> infos,
                   std::vector<std::string> places)
    : options_(options),
      infos_(std::move(infos)),
      places_(std::move(places)),
      gather_(options.size),
      farewell_(options.size),
      port_(options.rank, options.size,
            std::all_of(places_.begin(), places_.end(), [this](const auto& p) { return p == places_[0]; }),
            {[this](int from, uint32_t kind, std::string payload) { heard(from, kind, std::move(payload)); },
             [this](int peer, const std::string& why) { lost(peer, why); },
             [this](const std::string& why) { loop_broke(why); }}) {
  const std::vector<std::string> addresses = options.exchange(port_.address());
  ensure(addresses.size() == places_.size(), "an address per rank");
  std::vector<UcxPort::Place> where;
  std::vector<int> watched;
  for (int r = 0; r < options.size; ++r) {
    const auto i = static_cast<size_t>(r);
    where.push_back({addresses[i], places_[i] == places_[static_cast<size_t>(options.rank)]});
    // Rank 0 watches all and all watch rank 0: that a neighbour died is learnt from rank 0.
    if (r != options.rank && (r == 0 || is_judge())) watched.push_back(r);
    if (r != options.rank) staying_.insert(r);
  }
  liveness_.emplace(
      watched, milliseconds(static_cast<int64_t>(options.peer_deadline_seconds * 1000)),
      [this](int r) { return process_gone(r); }, Liveness::Clock::now());
  if (options.size > 1) port_.loop().after(milliseconds(0), [this] { tick(); });
  port_.connect(std::move(where));
}

UcxWorld::~UcxWorld() {
  if (!finished_ && size() > 1) abort("this rank ended before the job did", ExitStatus::runtime_failure);
  port_.loop().stop();
}

int UcxWorld::local_size() const {
  int size = 0;
  for (const RankInfo& other : infos_) size += other.host == info(rank()).host ? 1 : 0;
  return size;
}

int UcxWorld::local_rank() const {
  int before = 0;
  for (int r = 0; r < rank(); ++r) before += info(r).host == info(rank()).host ? 1 : 0;
  return before;
}

const RankInfo& UcxWorld::info(int rank) const {
  ensure(rank >= 0 && rank < size(), "a rank outside this world");
  return infos_[static_cast<size_t>(rank)];
}

bool UcxWorld::process_gone(int rank) const {
  const auto place = [this](int r) -> const std::string& { return places_[static_cast<size_t>(r)]; };
  return place(rank) == place(options_.rank) && !process_alive(info(rank).pid);
}

bool UcxWorld::report_lost_peer() noexcept {
  if (finished_) return true;  // peers leave as this rank does, and their launcher ends whoever is left
  for (const RankInfo& peer : infos_) {
    if (process_gone(peer.rank)) {
      end_world({text_of(peer) + " died: its process is gone.", ExitStatus::runtime_failure, peer.rank});
      return true;
    }
  }
  return false;
}

void UcxWorld::request_stop(const std::string& reason) {
  if (is_judge()) {
    stop_requests_.add(0, reason);
  } else {
    port_.send_control(0, kStop, reason);
  }
}

void UcxWorld::send(int to, ControlKind kind, std::string payload) {
  if (to == rank()) {
    inbox_.push({to, kind, std::move(payload)});
  } else {
    port_.send_control(info(to).rank, static_cast<uint32_t>(kind), std::move(payload));
  }
}

void UcxWorld::tell_others(Internal kind, const std::string& payload) {
  for (int r = 0; r < size(); ++r) {
    if (r != rank()) port_.send_control(r, kind, payload);
  }
}

std::vector<std::string> UcxWorld::gather_all(const std::string& mine) {
  // Together they travel as one control message.
  const size_t limit = kControlLimit / 2 / static_cast<size_t>(size());
  if (mine.size() > limit) {
    throw Error("A text for all ranks has " + std::to_string(mine.size()) + " bytes; in a world of " +
                std::to_string(size()) + " ranks at most " + std::to_string(limit) +
                " can be gathered from each.");
  }
  return gather(gather_, kGatherPart, mine);
}

std::vector<std::string> UcxWorld::gather(Gather& gather, Internal part, const std::string& mine) {
  if (is_judge()) {
    port_.loop().post([this, part, mine] { heard(0, part, mine); });
  } else {
    port_.send_control(0, part, mine);
  }
  const auto start = std::chrono::steady_clock::now();
  // The others give rank 0 the time to name the culprit.
  const milliseconds deadline = milliseconds(static_cast<int64_t>(options_.gather_deadline_seconds * 1000)) +
                                (is_judge() ? milliseconds(0) : kJudgeDeadline);
  for (;;) {
    if (auto texts = gather.wait(std::min(kGatherNote, deadline))) return *std::move(texts);
    const std::chrono::duration<double> waited = std::chrono::steady_clock::now() - start;
    const std::string seconds = std::to_string(static_cast<int>(waited.count())) + " s";
    const std::string whom = is_judge() ? text_of_ranks(gather.missing()) : "rank 0";
    if (waited >= deadline) {
      abort("waited " + seconds + " for " + whom + " to come to where every rank meets",
            ExitStatus::runtime_failure);
    } else if (is_judge()) {
      log::info("waiting for " + whom + ", " + seconds + " so far");
    }
  }
}

void UcxWorld::finish() {
  port_.loop().post([this] { said_done_ = true; });
  gather(farewell_, kDone, {});
  if (is_judge()) {
    // Closing before the last rank has read kAllDone would look like a death to it.
    port_.loop().post([this] {
      if (staying_.empty()) all_left_.complete();
      port_.loop().after(kFarewellDeadline, [this] { all_left_.complete(); });
    });
    all_left_.wait();
  } else {
    port_.send_control(0, kLeaving, {});
  }
  finished_ = true;
  options_.at_finish();
}

void UcxWorld::abort(const std::string& reason, ExitStatus status) noexcept {
  end_world({size() == 1 ? reason : text_of(info(rank())) + ": " + reason, status, rank()});
}

void UcxWorld::end_world(const Fault& fault) noexcept {
  port_.loop().post([this, fault] { fail(fault); });
  std::unique_lock lock(mutex_);
  settled_changed_.wait_for(lock, kAbortDeadline, [this] { return settled_; });
}

void UcxWorld::heard(int from, uint32_t kind, std::string payload) {
  liveness_->heard(from, Liveness::Clock::now());
  if (kind < kFirstInternal) return inbox_.push({from, static_cast<ControlKind>(kind), std::move(payload)});
  switch (kind) {
    case kHeartbeat:
      break;
    case kGatherPart:
      collect(gather_, from, std::move(payload), kGatherResult);
      break;
    case kDone:
      collect(farewell_, from, {}, kAllDone);
      break;
    case kGatherResult:
    case kAllDone: {
      proto::Gathered gathered;
      if (!gathered.ParseFromString(payload)) return lost(from, "it sent a gathering that cannot be read");
      if (kind == kAllDone) all_done_ = true;
      (kind == kAllDone ? farewell_ : gather_).publish({gathered.texts().begin(), gathered.texts().end()});
      break;
    }
    case kLeaving:
      excuse(staying_, from);
      break;
    case kReport:
    case kVerdict: {
      proto::Failure failure;
      if (!failure.ParseFromString(payload)) return lost(from, "it sent a failure that cannot be read");
      const Fault fault{failure.message(), status_of(failure), failure.failed_rank()};
      if (kind == kReport) {
        fail(fault);
      } else {
        port_.send_control(from, kVerdictHeard, {});
        if (verdict_) return;
        verdict_ = fault;
        port_.loop().after(kPartingWords, [this] { settle(); });
      }
      break;
    }
    case kStop:
      stop_requests_.add(from, std::move(payload));
      break;
    case kVerdictHeard:
      excuse(unaware_, from);
      break;
    default:
      lost(from, "it sent a control message of the unknown kind " + std::to_string(kind));
  }
}

void UcxWorld::collect(Gather& gather, int from, std::string text, Internal result) {
  auto texts = gather.add(from, std::move(text));
  if (!texts) return;
  if (result == kAllDone) all_done_ = true;
  proto::Gathered gathered;
  gathered.mutable_texts()->Assign(texts->begin(), texts->end());
  tell_others(result, gathered.SerializeAsString());
  gather.publish(*std::move(texts));
}

void UcxWorld::tick() {
  if (verdict_ || all_done_) return;
  if (is_judge()) {
    tell_others(kHeartbeat, {});
  } else {
    port_.send_control(0, kHeartbeat, {});
  }
  if (const auto death = liveness_->check(Liveness::Clock::now())) lost(death->rank, death->why);
  port_.loop().after(kHeartbeatPeriod, [this] { tick(); });
}

void UcxWorld::lost(int peer, const std::string& why) {
  lost_.insert(peer);
  excuse(unaware_, peer);
  excuse(staying_, peer);
  // Who is done may leave before this rank hears that all are; whether it died instead is for rank 0 to say.
  if (all_done_ || (said_done_ && peer != 0 && !is_judge())) return;
  fail({text_of(info(peer)) + " died: " + why + ".", ExitStatus::runtime_failure, peer});
}

// Rank 0 judges, so that of several failures one is the reason everywhere and one message is printed.
void UcxWorld::fail(const Fault& fault) {
  if (verdict_ || std::exchange(reported_, true)) return;
  if (is_judge()) return judge(fault);
  milliseconds patience = kNextJudge * std::min(rank() - 1, kMostJudges);
  if (lost_.count(0) == 0) {
    port_.send_control(0, kReport, encode(fault));
    patience += kJudgeDeadline;
  }
  port_.loop().after(patience, [this, fault] { judge(fault); });
}

void UcxWorld::judge(const Fault& fault) {
  if (verdict_) return;
  verdict_ = fault;
  // The log's lines begin with rank and host already.
  const std::string own = text_of(info(rank())) + ": ";
  log::error(fault.message.rfind(own, 0) == 0 ? fault.message.substr(own.size()) : fault.message);
  for (int r = 0; r < size(); ++r) {
    if (r != rank() && lost_.count(r) == 0) unaware_.insert(r);
  }
  tell_others(kVerdict, encode(fault));
  port_.loop().after(kVerdictDeadline, [this] { settle(); });
  if (unaware_.empty()) port_.loop().post([this] { settle(); });
}

void UcxWorld::excuse(std::set<int>& awaited, int peer) {
  if (awaited.erase(peer) == 0 || !awaited.empty()) return;
  if (&awaited == &unaware_) {
    port_.loop().post([this] { settle(); });
  } else if (all_done_) {
    all_left_.complete();
  }
}

void UcxWorld::settle() {
  {
    const std::lock_guard lock(mutex_);
    if (settled_) return;
  }
  port_.shut(*verdict_);
  inbox_.fail(*verdict_);
  gather_.fail(*verdict_);
  farewell_.fail(*verdict_);
  {
    const std::lock_guard lock(mutex_);
    settled_ = true;
    settled_changed_.notify_all();
  }
  if (options_.end_process_after_failure) {
    port_.loop().after(kEndOfProcess, [this] { std::_Exit(static_cast<int>(verdict_->status)); });
  }
}

void UcxWorld::loop_broke(const std::string& why) {
  if (!verdict_) {
    verdict_ = Fault{text_of(info(rank())) + ": its connection to the other ranks failed: " + why,
                     ExitStatus::runtime_failure, rank()};
    log::error(verdict_->message);
  }
  settle();
  // The loop that would end the process later is the one that broke.
  if (options_.end_process_after_failure) std::_Exit(static_cast<int>(verdict_->status));
}

}  // namespace

std::unique_ptr<World> make_ucx_world(const UcxWorldOptions& options) {
  const RankInfo me = this_process(options.rank);
  proto::Hello mine;
  mine.set_host(me.host);
  mine.set_pid(me.pid);
  mine.set_place(this_place());
  std::vector<RankInfo> infos;
  std::vector<std::string> places;
  for (const std::string& text : options.exchange(mine.SerializeAsString())) {
    proto::Hello hello;
    ensure(hello.ParseFromString(text), "a readable hello");
    infos.push_back({static_cast<int>(infos.size()), hello.host(), hello.pid()});
    places.push_back(hello.place());
  }
  ensure(infos.size() == static_cast<size_t>(options.size), "a hello per rank");
  return std::make_unique<UcxWorld>(options, std::move(infos), std::move(places));
}

}  // namespace penstock
