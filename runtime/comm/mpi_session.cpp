#include "runtime/comm/mpi_session.h"

#include <mpi.h>

#include <algorithm>
#include <thread>

#include "proto/wire.pb.h"
#include "runtime/base/error.h"
#include "runtime/comm/arrival.h"
#include "runtime/comm/host.h"
#include "runtime/comm/watchdog.h"

namespace penstock {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr int kHelloTag = 1;
constexpr int kEveryoneTag = 2;
constexpr int kTextLimit = 1 << 20;
constexpr milliseconds kNap{1};
constexpr milliseconds kFinalizeDeadline{30'000};
// The ranks' watchdogs bark one after the other: the first ends the job before the next has spoken.
constexpr milliseconds kStagger{250};
constexpr int kMostStaggers = 8;

std::string seconds(milliseconds time) {
  return std::to_string((time.count() + 999) / 1000) + " s";
}

/// Empty when another rank of this host has said it.
std::string not_formed(const LaunchEnvironment& environment, const ArrivalMark& mark, milliseconds deadline) {
  if (!mark.speak_for_all(environment.size)) return {};
  std::vector<int> here;
  std::vector<int> missing;
  for (int r = 0; r < environment.size; ++r)
    (r == environment.rank || mark.seen(r) ? here : missing).push_back(r);
  const RankInfo me = this_process(environment.rank);
  std::string text = "The world of " + std::to_string(environment.size) + " ranks has not formed within " +
                     seconds(deadline);
  if (missing.empty()) {
    text += ", although all of them have started on " + me.host + ". MPI itself is stuck.";
  } else if (environment.local_size == environment.size) {
    text += ": " + text_of_ranks(missing) + " of host " + me.host + " never reached MPI_Init.";
  } else {
    text += ". On host " + me.host + ", which runs " + std::to_string(environment.local_size) + " of them, " +
            text_of_ranks(here) + " arrived; not seen here: " + text_of_ranks(missing) + ".";
  }
  return text + " Said by " + text_of(me) + ".";
}

/// Sleeps between tests until the request is complete; false when the deadline passes first. MPI_Wait would
/// spin.
bool complete(MPI_Request& request, Clock::time_point deadline) {
  for (;;) {
    int done = 0;
    MPI_Test(&request, &done, MPI_STATUS_IGNORE);
    if (done != 0) return true;
    if (Clock::now() > deadline) return false;
    std::this_thread::sleep_for(kNap);
  }
}

/// The next message with this tag, or nothing when the deadline passes first.
bool receive(int from, int tag, int limit, Clock::time_point deadline, std::string& text, int& sender) {
  for (;;) {
    int there = 0;
    MPI_Message message = MPI_MESSAGE_NULL;
    MPI_Status status;
    MPI_Improbe(from, tag, MPI_COMM_WORLD, &there, &message, &status);
    if (there != 0) {
      int length = 0;
      MPI_Get_count(&status, MPI_BYTE, &length);
      ensure(length >= 0 && length <= limit, "a first message of believable length");
      text.resize(static_cast<size_t>(length));
      sender = status.MPI_SOURCE;
      MPI_Request request = MPI_REQUEST_NULL;
      MPI_Imrecv(text.data(), length, MPI_BYTE, &message, &request);
      return complete(request, deadline);
    }
    if (Clock::now() > deadline) return false;
    std::this_thread::sleep_for(kNap);
  }
}

}  // namespace

MpiSession::MpiSession(const LaunchEnvironment& environment, milliseconds init_deadline)
    : deadline_(init_deadline) {
  // MPI_Init would end the process itself, with a text that does not say what to do.
  if (!environment.has_meeting_point) refuse_singletons(environment, 1);
  const ArrivalMark mark(environment.job, environment.rank);
  int provided = MPI_THREAD_SINGLE;
  {
    const Watchdog watchdog(init_deadline + kStagger * std::min(environment.rank, kMostStaggers),
                            [&] { return not_formed(environment, mark, init_deadline); });
    // Funneled: UCX has a thread of its own, MPI stays with the one that calls this.
    if (MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS) {
      throw Error("MPI_Init_thread failed. Start with mpirun or `srun --mpi=pmix`.");
    }
  }
  MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
  MPI_Comm_size(MPI_COMM_WORLD, &size_);
  refuse_singletons(environment, size_);
  if (provided < MPI_THREAD_FUNNELED) {
    throw UsageError("MPI offers thread level " + std::to_string(provided) + ", but MPI_THREAD_FUNNELED (" +
                     std::to_string(MPI_THREAD_FUNNELED) +
                     ") is needed. Use an MPI built with thread support.");
  }
}

std::vector<std::string> MpiSession::collect(const std::string& mine) {
  const auto deadline = Clock::now() + deadline_;
  std::vector<std::string> texts(static_cast<size_t>(size_));
  std::vector<bool> came(static_cast<size_t>(size_), false);
  texts[0] = mine;
  came[0] = true;
  for (int i = 1; i < size_; ++i) {
    std::string text;
    int from = 0;
    if (!receive(MPI_ANY_SOURCE, kHelloTag, kTextLimit, deadline, text, from)) {
      std::vector<int> missing;
      for (int r = 0; r < size_; ++r) {
        if (!came[static_cast<size_t>(r)]) missing.push_back(r);
      }
      throw Error("Nothing was heard from " + text_of_ranks(missing) + " of " + std::to_string(size_) +
                  " within " + seconds(deadline_) + " after MPI_Init.");
    }
    texts[static_cast<size_t>(from)] = std::move(text);
    came[static_cast<size_t>(from)] = true;
  }
  return texts;
}

std::vector<std::string> MpiSession::exchange(const std::string& mine) {
  ensure(mine.size() <= kTextLimit, "a first message below its limit");
  proto::Gathered everyone;
  const Error late("Rank 0 has not answered within " + seconds(deadline_) + " after MPI_Init.");
  // Rank 0 speaks first: it knows who is missing.
  const auto deadline =
      Clock::now() + deadline_ +
      (rank_ == 0 ? milliseconds(0) : 4 * kStagger + kStagger * std::min(rank_, kMostStaggers));
  if (rank_ == 0) {
    const std::vector<std::string> texts = collect(mine);
    everyone.mutable_texts()->Assign(texts.begin(), texts.end());
    const std::string packed = everyone.SerializeAsString();
    std::vector<MPI_Request> requests(static_cast<size_t>(size_ - 1));
    for (int r = 1; r < size_; ++r) {
      MPI_Isend(packed.data(), static_cast<int>(packed.size()), MPI_BYTE, r, kEveryoneTag, MPI_COMM_WORLD,
                &requests[static_cast<size_t>(r - 1)]);
    }
    for (int r = 1; r < size_; ++r) {
      if (!complete(requests[static_cast<size_t>(r - 1)], deadline)) {
        throw Error("Rank " + std::to_string(r) + " has not taken the addresses of the others within " +
                    seconds(deadline_) + ".");
      }
    }
  } else {
    MPI_Request request = MPI_REQUEST_NULL;
    MPI_Isend(mine.data(), static_cast<int>(mine.size()), MPI_BYTE, 0, kHelloTag, MPI_COMM_WORLD, &request);
    std::string packed;
    int from = 0;
    if (!complete(request, deadline) || !receive(0, kEveryoneTag, size_ * kTextLimit, deadline, packed, from))
      throw late;
    ensure(everyone.ParseFromString(packed), "a readable list of hellos");
  }
  return {everyone.texts().begin(), everyone.texts().end()};
}

void MpiSession::finish() {
  const Watchdog watchdog(kFinalizeDeadline, [this] {
    return "MPI_Finalize has not returned within " + seconds(kFinalizeDeadline) + " on rank " +
           std::to_string(rank_) + ", although the job is complete.";
  });
  MPI_Finalize();
}

}  // namespace penstock
