#include "runtime/requests/batch_job.h"

#include <algorithm>
#include <set>

#include "runtime/base/error.h"
#include "runtime/base/log.h"
#include "runtime/base/rng.h"
#include "runtime/requests/answer_text.h"
#include "runtime/requests/text/tokenizer.h"

namespace penstock {
namespace {

constexpr int64_t kWindowRows = 65536;
constexpr int64_t kWindowBytes = int64_t{256} << 20;
constexpr size_t kQueuedRows = 1024;

/// What every sequence of the row samples with; the key of each is its own (key_of).
proto::Sampling sampling_of(const SamplingFields& fields) {
  proto::Sampling sampling;
  sampling.set_temperature(fields.temperature);
  sampling.set_top_k(fields.top_k);
  sampling.set_top_p(fields.top_p);
  sampling.set_min_p(fields.min_p);
  sampling.set_logprobs(fields.logprobs.value_or(-1));
  return sampling;
}

/// The RNG key of one answer: by seed, row and choice, never by place in a batch.
uint64_t key_of(uint64_t seed, const std::string& custom_id, size_t choice) {
  return stable_hash(custom_id + '\0' + std::to_string(choice), seed);
}

}  // namespace

BatchJob::BatchJob(BatchJobOptions options, std::shared_ptr<const Tokenizer> tokenizer,
                   std::unique_ptr<RowSink> sink)
    : options_(std::move(options)),
      tokenizer_(std::move(tokenizer)),
      intake_(options_.input, options_.intake, tokenizer_),
      sink_(std::move(sink)),
      window_(kWindowRows, kWindowBytes),
      read_rows_(kQueuedRows),
      done_rows_(kQueuedRows) {
  for (int r = 0; r < options_.replicas; ++r) replicas_.emplace_back(options_.scheduler);
  intake_.skip([this](uint64_t row) { return sink_->finished(row); });
  counters_.rows_done = static_cast<int64_t>(sink_->finished_rows());
  counters_.rows_failed = static_cast<int64_t>(sink_->failed_rows());
  reading_ = std::thread([this] { run_guarded(&BatchJob::read_ahead); });
  writing_ = std::thread([this] { run_guarded(&BatchJob::write_behind); });
}

BatchJob::~BatchJob() {
  window_.close();
  intake_.interrupt();
  read_rows_.close();
  done_rows_.close();
  if (reading_.joinable()) reading_.join();
  if (writing_.joinable()) writing_.join();
}

// What a helper thread throws is kept for the caller's next call, and everything that waits is woken.
void BatchJob::run_guarded(void (BatchJob::*body)()) {
  try {
    (this->*body)();
  } catch (...) {
    {
      const std::lock_guard lock(failure_mutex_);
      if (!failure_) failure_ = std::current_exception();
    }
    failed_ = true;
    window_.close();
    read_rows_.close();
    done_rows_.close();
    tell_news();
  }
}

void BatchJob::hear_news(std::function<void()> hear) {
  const std::lock_guard lock(hearing_);
  hear_ = std::move(hear);
}

void BatchJob::tell_news() {
  const std::lock_guard lock(hearing_);
  if (hear_) hear_();
}

void BatchJob::rethrow_failure() {
  if (!failed_) return;
  const std::lock_guard lock(failure_mutex_);
  std::rethrow_exception(failure_);
}

// ---- reading ahead ----

void BatchJob::read_ahead() {
  while (std::optional<ReadRow> row = intake_.next(window_)) {
    counters_.input_bytes = static_cast<int64_t>(intake_.bytes_read());
    counters_.rows_read = static_cast<int64_t>(row->number) + 1;
    if (!read_rows_.push(std::move(*row))) return;
    tell_news();
  }
  if (window_.closed()) return;
  counters_.rows_read = static_cast<int64_t>(intake_.rows());
  counters_.input_bytes = static_cast<int64_t>(intake_.bytes_read());
  counters_.input_ended = true;
  read_rows_.close();
  tell_news();
}

// ---- planning ----

proto::Plan BatchJob::plan(int replica, int slot) {
  rethrow_failure();
  if (draining_) return {};
  if (renewal_) {
    if (in_flight()) return {};
    renew();
  }
  if (const std::optional<Limits> limits = std::exchange(limits_, std::nullopt))
    for (Replica& each : replicas_)
      each.scheduler.change_limits(limits->max_num_seqs, limits->max_num_batched_tokens,
                                   limits->usable_blocks);
  pull();
  Replica& mine = replicas_.at(static_cast<size_t>(replica));
  share_waiting(mine);
  proto::Plan plan = mine.scheduler.plan(slot);
  if (!plan.rows().empty()) plan.set_full_precision_blocks(std::exchange(mine.blocks_to_tell, 0));
  mine.planned_at.at(static_cast<size_t>(slot)) = std::chrono::steady_clock::now();
  count();
  return plan;
}

void BatchJob::count() {
  size_t running = 0, waiting = 0;
  int64_t preemptions = 0;
  double kv_used = 0;
  for (const Replica& each : replicas_) {
    running += each.scheduler.running();
    waiting += each.scheduler.waiting();
    preemptions += each.scheduler.preemptions();
    kv_used += each.scheduler.kv_used_share();
  }
  counters_.running = static_cast<int64_t>(running);
  counters_.waiting = static_cast<int64_t>(waiting);
  counters_.preemptions = preemptions;
  counters_.kv_used_share = kv_used / static_cast<double>(replicas_.size());
}

void BatchJob::take_in(int replica, int slot, const proto::StepResult& result) {
  rethrow_failure();
  counters_.generated_tokens += result.tokens_size();
  Replica& mine = replicas_.at(static_cast<size_t>(replica));
  const std::chrono::duration<double> round =
      std::chrono::steady_clock::now() - mine.planned_at.at(static_cast<size_t>(slot));
  if (round.count() > counters_.slowest_round_seconds) counters_.slowest_round_seconds = round.count();
  for (FinishedSequence& sequence : mine.scheduler.complete(slot, result)) {
    const auto found = live_.find(sequence.id);
    ensure(found != live_.end(), "a finished sequence belongs to a row");
    LiveRow& row = *found->second.row;
    if (options_.metrics != nullptr)
      options_.metrics->finished(sequence.id, name_of(sequence.reason), RequestMetrics::Clock::now());
    row.answer.choices[found->second.index].sequence = std::move(sequence);
    const std::shared_ptr<LiveRow> owner = std::move(found->second.row);
    live_.erase(found);
    if (--row.unfinished == 0) {
      row.answer.system_fingerprint = numerics_;
      hand_over({row.number, row.bytes, std::move(row.answer)});
    }
  }
}

void BatchJob::renew_cache(int64_t blocks, std::string numerics) {
  ensure(!renewal_ && numerics_.empty() && !numerics.empty() && blocks > 0,
         "a cache is renewed once, with blocks, for other numerics");
  renewal_ = Renewal{blocks, std::move(numerics)};
}

// A row of several choices may have some that are finished: those begin anew with the others.
void BatchJob::renew() {
  for (Replica& each : replicas_) {
    each.scheduler.start_over(renewal_->blocks);
    each.blocks_to_tell = static_cast<uint64_t>(renewal_->blocks);
  }
  numerics_ = std::move(renewal_->numerics);
  renewal_.reset();
  std::set<std::pair<std::shared_ptr<LiveRow>, size_t>> unfinished;
  std::set<std::shared_ptr<LiveRow>> rows;
  for (const auto& [id, choice] : live_) {
    unfinished.emplace(choice.row, choice.index);
    rows.insert(choice.row);
  }
  for (const std::shared_ptr<LiveRow>& row : rows)
    for (size_t i = 0; i < row->specs.size(); ++i) {
      if (unfinished.count({row, i}) > 0) continue;
      ++row->unfinished;
      begin(row->specs[i], row, i);
    }
  tell_news();
}

bool BatchJob::in_flight() const {
  return std::any_of(replicas_.begin(), replicas_.end(),
                     [](const Replica& each) { return each.scheduler.in_flight(); });
}

std::optional<bool> BatchJob::finished(int replica) {
  rethrow_failure();
  Replica& mine = replicas_.at(static_cast<size_t>(replica));
  if (!draining_) {
    pull();
    share_waiting(mine);
    // Until the others' micro-batches have come back, a cache that is to be renewed lets nothing run.
    if (!mine.scheduler.empty()) return renewal_ && in_flight() ? std::nullopt : std::optional(false);
    if (!read_rows_.drained()) return std::nullopt;
    rethrow_failure();  // a queue closed by a failure looks drained
    // Others may be preempted or begin anew, and then have sequences to give.
    for (const Replica& each : replicas_)
      if (!each.scheduler.empty()) return std::nullopt;
  }
  return true;
}

// Keeps enough rows waiting that every scheduler can choose among them.
void BatchJob::pull() {
  const auto enough = static_cast<size_t>(2 * options_.scheduler.max_num_seqs);
  while (emptiest().scheduler.waiting() < enough) {
    std::optional<ReadRow> row = read_rows_.try_pop();
    if (!row) break;
    take_up(std::move(*row));
  }
  if (read_rows_.drained())
    for (Replica& each : replicas_) each.scheduler.input_ended();
}

// A replica that has run out of rows takes over half of what another one has more.
void BatchJob::share_waiting(Replica& mine) {
  if (mine.scheduler.waiting() > 0) return;
  Replica& fullest = *std::max_element(
      replicas_.begin(), replicas_.end(),
      [](const Replica& a, const Replica& b) { return a.scheduler.waiting() < b.scheduler.waiting(); });
  while (mine.load() + 1 < fullest.load()) {
    std::optional<SequenceSpec> spec = fullest.scheduler.hand_on();
    if (!spec) return;
    mine.scheduler.add(std::move(*spec));
  }
}

BatchJob::Replica& BatchJob::emptiest() {
  return *std::min_element(replicas_.begin(), replicas_.end(),
                           [](const Replica& a, const Replica& b) { return a.load() < b.load(); });
}

void BatchJob::take_up(ReadRow row) {
  if (auto* error = std::get_if<RowError>(&row.what)) {
    hand_over({row.number, row.bytes, std::move(*error)});
    return;
  }
  take_up(row, std::move(std::get<ReadyRow>(row.what)));
}

void BatchJob::take_up(ReadRow& read, ReadyRow ready) {
  const SamplingFields& fields = ready.request.sampling;
  auto row = std::make_shared<LiveRow>();
  row->number = read.number;
  row->bytes = read.bytes;
  row->answer.custom_id = ready.request.custom_id;
  row->answer.model = ready.request.model.empty() ? options_.model_name : ready.request.model;
  row->answer.fields = fields;
  row->answer.chat = std::move(ready.chat);

  std::vector<int32_t> ends = fields.stop_token_ids;
  ends.insert(ends.end(), options_.eos_token_ids.begin(), options_.eos_token_ids.end());
  const auto rules =
      std::make_shared<const LogitRules>(make_logit_rules(fields, ends, std::move(ready.bad_words)));
  row->answer.end_tokens = fields.ignore_eos ? fields.stop_token_ids : std::move(ends);
  const bool keeps_prompt = fields.return_token_ids || fields.echo || fields.prompt_logprobs;
  const uint64_t seed = fields.seed ? static_cast<uint64_t>(*fields.seed) : options_.seed;
  const auto n = static_cast<size_t>(fields.n);
  row->answer.choices.resize(ready.prompt_ids.size() * n);
  row->unfinished = row->answer.choices.size();
  std::optional<std::vector<ChoiceSoFar>> saved;
  if (const std::optional<proto::CutRow> cut = sink_->cut(read.number); cut && cut->numerics() == numerics_)
    saved = choices_of(*cut, {ready.prompt_ids, n, std::max<int64_t>(1, fields.max_tokens),
                              fields.prompt_logprobs.has_value(), options_.intake.vocab_size});
  for (size_t i = 0; i < row->answer.choices.size(); ++i) {
    const std::vector<int32_t>& prompt = ready.prompt_ids[i / n];
    if (i % n == 0) row->answer.prompt_tokens += static_cast<int64_t>(prompt.size());
    if (keeps_prompt) row->answer.prompt_token_ids.push_back(prompt);
    SequenceSpec spec{next_sequence_++, prompt, std::max<int64_t>(1, fields.max_tokens),
                      row->answer.end_tokens, sampling_of(fields)};
    spec.rules = rules;
    if (i % n == 0) spec.prompt_logprobs = fields.prompt_logprobs;
    if (!fields.stop.empty())
      spec.make_ends = [tokenizer = tokenizer_, fields] {
        return
            [text = std::make_shared<SequenceText>(tokenizer, fields)](int32_t id) { return text->push(id); };
      };
    spec.sampling.set_key(key_of(seed, ready.request.custom_id, i));
    if (row->answer.choices.size() > 1) row->specs.push_back(spec);
    if (saved && (*saved)[i].ended) {
      row->answer.choices[i].sequence = {0, std::move((*saved)[i].tokens), *(*saved)[i].ended,
                                         std::move((*saved)[i].prompt)};
      --row->unfinished;
      continue;
    }
    if (saved) {
      spec.generated = std::move((*saved)[i].tokens);
      spec.scored = std::move((*saved)[i].prompt);
    }
    begin(std::move(spec), row, i);
  }
  counters_.prompt_tokens += row->answer.prompt_tokens;
  if (row->unfinished == 0) {  // all of it was saved
    row->answer.system_fingerprint = numerics_;
    hand_over({row->number, row->bytes, std::move(row->answer)});
  }
}

void BatchJob::begin(SequenceSpec spec, const std::shared_ptr<LiveRow>& row, size_t index) {
  if (options_.metrics != nullptr) {
    const SamplingFields& fields = row->answer.fields;
    options_.metrics->arrived(spec.id,
                              {static_cast<int64_t>(spec.prompt.size()), fields.max_tokens, fields.n,
                               static_cast<int64_t>(index) % fields.n},
                              RequestMetrics::Clock::now());
  }
  live_[spec.id] = {row, index};
  emptiest().scheduler.add(std::move(spec));
}

void BatchJob::hand_over(DoneRow row) {
  ++counters_.handed_over;
  if (!done_rows_.push(std::move(row))) rethrow_failure();
}

// ---- writing behind ----

void BatchJob::write_behind() {
  for (;;) {
    std::optional<DoneRow> row = done_rows_.try_pop();
    if (!row) {
      sink_->idle();
      row = done_rows_.pop();
      if (!row) break;
    }
    const bool failed = std::holds_alternative<RowError>(row->what);
    proto::FinishedRow record;
    record.set_number(row->number);
    record.set_line(format(*row));
    record.set_failed(failed);
    if (options_.metrics != nullptr) show(*row);
    if (failed && counters_.rows_failed == static_cast<int64_t>(sink_->failed_rows())) tell_of(*row);
    if (!failed) record.set_numerics(std::get<Answer>(row->what).system_fingerprint);
    counters_.rows_renewed += record.numerics().empty() ? 0 : 1;
    if (options_.keep_numbers && !failed)
      for (Choice& choice : std::get<Answer>(row->what).choices)
        *record.add_choices() = journaled({std::move(choice.sequence.tokens), choice.sequence.reason});
    const auto grown = static_cast<int64_t>(record.ByteSizeLong());
    window_.grow(grown);
    const RowSink::Left left = sink_->put(std::move(record), row->bytes + grown);
    window_.leave(left.rows, left.bytes);
    ++counters_.put;
    if (counters_.first_row_microseconds < 0)
      counters_.first_row_microseconds =
          std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - begin_)
              .count();
    counters_.rows_failed += failed ? 1 : 0;
    ++counters_.rows_done;
  }
}

// Only of the first one: so a job whose every row has the same error says why.
void BatchJob::tell_of(const DoneRow& row) {
  const RowError& error = std::get<RowError>(row.what);
  log::warning("row " + std::to_string(row.number + 1) +
               (error.custom_id.empty() ? "" : " (custom_id " + error.custom_id + ")") + " has an error: " +
               error.message + " (the output has it too; of other rows only the output tells)");
}

void BatchJob::show(const DoneRow& row) const {
  const auto now = RequestMetrics::Clock::now();
  if (const auto* error = std::get_if<RowError>(&row.what)) {
    options_.metrics->row_failed({error->custom_id, error->message, error->field});
  } else if (options_.metrics->wants_sample(now)) {
    const auto& answer = std::get<Answer>(row.what);
    const Choice& first = answer.choices.front();
    // Without a tokenizer there are only ids.
    const std::string text =
        first.text.empty() ? std::to_string(first.sequence.tokens.size()) + " tokens" : first.text;
    options_.metrics->row_finished({answer.custom_id, text, name_of(first.sequence.reason)}, now);
  }
}

std::string BatchJob::format(DoneRow& row) const {
  if (const auto* error = std::get_if<RowError>(&row.what)) return format_error(*error);
  auto& answer = std::get<Answer>(row.what);
  fill_texts(answer, tokenizer_);
  return format_answer(answer);
}

// ---- the end ----

void BatchJob::drain() {
  draining_ = true;
  window_.close();
  intake_.interrupt();
  read_rows_.close();
  tell_news();
}

void BatchJob::save_cut_rows() {
  std::set<std::shared_ptr<LiveRow>> rows;
  for (Replica& each : replicas_)
    for (FinishedSequence& sequence : each.scheduler.give_up()) {
      ChoiceOf& choice = live_.at(sequence.id);
      choice.row->answer.choices[choice.index].sequence = std::move(sequence);
      rows.insert(choice.row);
    }
  std::set<std::pair<const LiveRow*, size_t>> unfinished;
  for (const auto& [id, choice] : live_) unfinished.emplace(choice.row.get(), choice.index);
  for (const std::shared_ptr<LiveRow>& row : rows) {
    proto::CutRow record;
    record.set_number(row->number);
    bool any = false;
    for (size_t i = 0; i < row->answer.choices.size(); ++i) {
      FinishedSequence& sequence = row->answer.choices[i].sequence;
      ChoiceSoFar choice{std::move(sequence.tokens), {}, std::move(sequence.prompt)};
      if (unfinished.count({row.get(), i}) == 0) choice.ended = sequence.reason;
      any = any || !choice.tokens.empty();
      *record.add_choices() = journaled(choice);
    }
    if (!any) continue;
    record.set_numerics(numerics_);
    sink_->save(std::move(record));
    ++counters_.rows_cut;
  }
}

bool BatchJob::finish() {
  done_rows_.close();
  reading_.join();
  writing_.join();
  rethrow_failure();
  if (counters_.input_ended && counters_.rows_done == counters_.rows_read) {
    sink_->complete();
    return true;
  }
  ensure(draining_, "a job that was not drained has finished every row");
  save_cut_rows();
  sink_->sync();
  return false;
}

void BatchJob::save_finished(std::chrono::milliseconds patience) {
  const int64_t mine = counters_.handed_over;
  const auto end = std::chrono::steady_clock::now() + patience;
  while (counters_.put < mine && !failed_ && std::chrono::steady_clock::now() < end)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  if (!failed_) sink_->sync();
}

JobProgress BatchJob::progress() const {
  JobProgress p;
  p.rows_done = counters_.rows_done;
  p.rows_resumed = static_cast<int64_t>(sink_->finished_rows());
  p.rows_cut = counters_.rows_cut;
  p.rows_renewed = counters_.rows_renewed;
  p.slowest_round_seconds = counters_.slowest_round_seconds;
  p.rows_failed = counters_.rows_failed;
  p.failed_resumed = static_cast<int64_t>(sink_->failed_rows());
  p.prompt_tokens = counters_.prompt_tokens;
  p.generated_tokens = counters_.generated_tokens;
  p.running = counters_.running;
  p.waiting = counters_.waiting;
  p.preemptions = counters_.preemptions;
  p.kv_used_share = counters_.kv_used_share;
  p.rows_read = counters_.rows_read;
  p.input_ended = counters_.input_ended;
  if (intake_.total_bytes() > 0)
    p.input_share_read =
        static_cast<double>(counters_.input_bytes) / static_cast<double>(intake_.total_bytes());
  p.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
  if (const int64_t first = counters_.first_row_microseconds; first >= 0)
    p.first_row_seconds = static_cast<double>(first) * 1e-6;
  return p;
}

}  // namespace penstock
