#include "runtime/requests/row_sink.h"

#include <map>
#include <string>
#include <utility>

#include "runtime/base/error.h"
#include "runtime/requests/input_spec.h"
#include "runtime/requests/output_file.h"

namespace penstock {
namespace {

class JournalSink final : public RowSink {
 public:
  explicit JournalSink(Journal& journal)
      : journal_(journal),
        finished_(journal.index().finished_rows()),
        failed_(journal.index().failed_rows()) {}

  uint64_t finished_rows() const override { return finished_; }
  uint64_t failed_rows() const override { return failed_; }
  bool finished(uint64_t row) const override { return journal_.index().finished(row); }
  std::optional<proto::CutRow> cut(uint64_t row) override { return journal_.index().cut(row); }
  Left put(proto::FinishedRow row, int64_t bytes) override {
    proto::JournalRecord record;
    *record.mutable_finished() = std::move(row);
    journal_.writer().append(record);
    return {1, bytes};
  }
  void idle() override {}
  void save(proto::CutRow row) override {
    proto::JournalRecord record;
    *record.mutable_cut() = std::move(row);
    journal_.writer().append(record);
  }
  void sync() override { journal_.writer().sync(); }
  void complete() override { journal_.complete(); }

 private:
  Journal& journal_;
  const uint64_t finished_;
  const uint64_t failed_;
};

class DirectSink final : public RowSink {
 public:
  explicit DirectSink(const std::filesystem::path& output) : output_(output) {}

  uint64_t finished_rows() const override { return 0; }
  uint64_t failed_rows() const override { return 0; }
  bool finished(uint64_t) const override { return false; }
  std::optional<proto::CutRow> cut(uint64_t) override { return std::nullopt; }
  Left put(proto::FinishedRow row, int64_t bytes) override {
    held_.emplace(row.number(), Held{std::move(*row.mutable_line()), bytes});
    Left left;
    for (auto first = held_.begin(); first != held_.end() && first->first == next_;
         first = held_.erase(first), ++next_) {
      output_.write_line(first->second.line);
      ++left.rows;
      left.bytes += first->second.bytes;
    }
    return left;
  }
  void idle() override { output_.flush(); }
  void save(proto::CutRow) override {}
  void sync() override { output_.flush(); }
  void complete() override { output_.finish(); }

 private:
  struct Held {
    std::string line;
    int64_t bytes = 0;
  };
  OutputFile output_;
  std::map<uint64_t, Held> held_;  // finished, but an earlier row is not
  uint64_t next_ = 0;
};

}  // namespace

std::unique_ptr<RowSink> make_journal_sink(Journal& journal) {
  return std::make_unique<JournalSink>(journal);
}

std::unique_ptr<RowSink> make_direct_sink(const std::filesystem::path& output) {
  if (is_hdf5(output))
    throw UsageError("--output-file " + output.string() +
                     ": expected a regular file for HDF5, which is not written front to back, found none");
  return std::make_unique<DirectSink>(output);
}

}  // namespace penstock
