// A batch file's way in and out on rank 0. Three threads: one reads ahead, parses and tokenizes; the caller's
// plans micro-batches and takes tokens in, for every replica of the pipeline; one detokenizes and gives
// finished rows to a RowSink. The file is never held whole: a window bounds the rows (and their bytes)
// between reading and writing.
#pragma once

#include <atomic>
#include <chrono>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "runtime/base/queue.h"
#include "runtime/metrics/request_metrics.h"
#include "runtime/requests/answer.h"
#include "runtime/requests/cut_row.h"
#include "runtime/requests/row_intake.h"
#include "runtime/requests/row_sink.h"
#include "runtime/requests/row_window.h"
#include "runtime/requests/scheduler.h"

namespace penstock {

class Tokenizer;

struct BatchJobOptions {
  InputSpec input;
  IntakeRules intake;
  SchedulerLimits scheduler;  ///< of each replica's
  int replicas = 1;
  std::vector<int32_t> eos_token_ids;
  uint64_t seed = 0;       ///< for rows without a seed of their own
  std::string model_name;  ///< in answers to rows that name no model
  bool keep_numbers =
      false;  ///< the output is made of token ids and log-probabilities too, not of lines alone
  RequestMetrics* metrics = nullptr;  ///< told of every row and sequence, if given; must outlive the job
};

/// Where the job stands; read from any thread.
struct JobProgress {
  int64_t rows_done = 0;     ///< finished, errors included
  int64_t rows_resumed = 0;  ///< of those, finished by earlier jobs
  int64_t rows_failed = 0;
  int64_t failed_resumed = 0;  ///< of those, by earlier jobs
  int64_t prompt_tokens = 0;   ///< of rows taken up
  int64_t generated_tokens = 0;
  int64_t running = 0;
  int64_t waiting = 0;
  int64_t preemptions = 0;
  double kv_used_share = 0;
  double input_share_read = 0;  ///< 0 when the input's length is unknown
  int64_t rows_read = 0;
  bool input_ended = false;
  double seconds = 0;                       ///< since the job began
  std::optional<double> first_row_seconds;  ///< from the beginning to the first finished row
  double slowest_round_seconds = 0;         ///< longest way of a micro-batch from plan() to take_in()
  int64_t rows_cut = 0;                     ///< rows that drain() cut short, with tokens that are saved
  int64_t rows_renewed = 0;  ///< finished after renew_cache(): computed otherwise than the manifest says
};

class BatchJob {
 public:
  /// Opens the input, so that a bad path stops the job before any work. `tokenizer` may be null: then prompts
  /// are token ids. Throws UsageError.
  BatchJob(BatchJobOptions options, std::shared_ptr<const Tokenizer> tokenizer,
           std::unique_ptr<RowSink> sink);
  /// Ends the threads; rows that are finished by then are put.
  ~BatchJob();
  BatchJob(const BatchJob&) = delete;
  BatchJob& operator=(const BatchJob&) = delete;

  /// The three calls of Planner (runtime/pipeline/plan_desk.h). They throw what broke on the other threads.
  proto::Plan plan(int replica, int slot);
  void take_in(int replica, int slot, const proto::StepResult& result);
  std::optional<bool> finished(int replica);
  /// `hear` is called, on any thread and without waiting for anybody, when finished() may have more to say.
  /// When this returns, the former one is not called any more.
  void hear_news(std::function<void()> hear);

  /// As Scheduler::change_limits, after a renewal that is due; on the caller's thread of plan().
  void change_limits(int64_t max_num_seqs, int64_t max_num_batched_tokens, int64_t usable_blocks) {
    limits_ = Limits{max_num_seqs, max_num_batched_tokens, usable_blocks};
  }
  /// Once nothing is in flight in any replica, every row that is not finished begins anew, on a cache of so
  /// many blocks that the stages make in full precision: no answer is a mixture. These answers and those that
  /// follow name `numerics` as their system_fingerprint. At most once; on the caller's thread of plan().
  void renew_cache(int64_t blocks, std::string numerics);
  /// It is due, and has not happened yet.
  bool renewing() const { return renewal_.has_value(); }

  /// Plans no more: finished() says true once what is in flight has come back. Any thread.
  void drain();
  /// After finished() said true of every replica: completes the output and returns true; or, when the job was
  /// drained before every row was finished, saves the tokens of unfinished rows and returns false.
  bool finish();

  /// Returns when every row finished so far is safe, or after `patience`. Any thread, while the job runs.
  void save_finished(std::chrono::milliseconds patience);

  JobProgress progress() const;

 private:
  struct DoneRow {
    uint64_t number = 0;
    int64_t bytes = 0;
    std::variant<Answer, RowError> what;
  };
  struct LiveRow {
    uint64_t number = 0;
    int64_t bytes = 0;
    Answer answer;
    size_t unfinished = 0;
    std::vector<SequenceSpec> specs;  // by choice, where there are several: finished ones may begin anew
  };
  struct ChoiceOf {
    std::shared_ptr<LiveRow> row;
    size_t index = 0;
  };
  struct Replica {
    explicit Replica(const SchedulerLimits& limits)
        : scheduler(limits), planned_at(static_cast<size_t>(limits.micro_batches)) {}
    size_t load() const { return scheduler.running() + scheduler.waiting(); }

    Scheduler scheduler;
    std::vector<std::chrono::steady_clock::time_point> planned_at;  // by slot
    uint64_t blocks_to_tell = 0;                                    // to its stages, with its next plan
  };
  struct Renewal {
    int64_t blocks = 0;
    std::string numerics;
  };
  struct Limits {
    int64_t max_num_seqs = 0, max_num_batched_tokens = 0, usable_blocks = 0;
  };

  void read_ahead();
  void pull();
  void share_waiting(Replica& mine);
  bool in_flight() const;
  Replica& emptiest();
  void count();
  void tell_news();
  void renew();
  void begin(SequenceSpec spec, const std::shared_ptr<LiveRow>& row, size_t index);
  void take_up(ReadRow row);
  void take_up(ReadRow& read, ReadyRow row);
  void hand_over(DoneRow row);
  void write_behind();
  void save_cut_rows();
  std::string format(DoneRow& row) const;
  static void tell_of(const DoneRow& row);
  void show(const DoneRow& row) const;
  void run_guarded(void (BatchJob::*body)());
  void rethrow_failure();

  BatchJobOptions options_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  RowIntake intake_;
  std::unique_ptr<RowSink> sink_;
  std::deque<Replica> replicas_;  // a scheduler does not move
  RowWindow window_;
  BoundedQueue<ReadRow> read_rows_;
  BoundedQueue<DoneRow> done_rows_;

  std::unordered_map<uint64_t, ChoiceOf> live_;  // by sequence
  uint64_t next_sequence_ = 0;
  std::optional<Limits> limits_;    // to take up
  std::optional<Renewal> renewal_;  // that is due
  std::string numerics_;            // of rows from here on; empty: as the manifest says
  std::atomic<bool> draining_{false};

  std::mutex hearing_;  // held while the hearer runs
  std::function<void()> hear_;

  std::mutex failure_mutex_;
  std::exception_ptr failure_;
  std::atomic<bool> failed_{false};

  const std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
  struct {
    std::atomic<int64_t> rows_done{0}, rows_failed{0}, prompt_tokens{0}, generated_tokens{0}, running{0},
        waiting{0}, preemptions{0}, rows_read{0}, input_bytes{0}, first_row_microseconds{-1}, rows_cut{0},
        rows_renewed{0}, handed_over{0}, put{0};
    std::atomic<double> kv_used_share{0}, slowest_round_seconds{0};
    std::atomic<bool> input_ended{false};
  } counters_;

  std::thread reading_;
  std::thread writing_;
};

}  // namespace penstock
