// HDF5 beside JSON lines: the same requests read, the same answers written, in one process, one after the
// other.
//   build/tests/hdf5_bench [ROWS]
#include <hdf5.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <vector>

#include "runtime/base/rng.h"
#include "runtime/requests/answer.h"
#include "runtime/requests/hdf5/journaled_row.h"
#include "runtime/requests/hdf5/results_writer.h"
#include "runtime/requests/input_spec.h"
#include "runtime/requests/output_file.h"
#include "runtime/requests/request.h"

namespace penstock {
namespace {

namespace fs = std::filesystem;

constexpr size_t kLongestLine = size_t{16} << 20;
constexpr int kPromptTokens = 200;
constexpr int kAnswerTokens = 128;

uint32_t draw(size_t row, size_t i) {
  return philox(row, i)[0];
}

double seconds_of(const std::function<void()>& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

void print(const char* what, int rows, double seconds, const fs::path& file, double lines_seconds) {
  std::printf("%-44s %9.0f rows/s  %7.1f MB  %6.2f x the lines' speed\n", what, rows / seconds,
              static_cast<double>(fs::file_size(file)) / 1e6, lines_seconds / seconds);
}

// ---- reading ----

void write_requests(int rows, const fs::path& lines, const fs::path& hdf5) {
  std::ofstream out(lines);
  std::vector<int32_t> ids;
  std::vector<int64_t> offsets{0};
  for (int r = 0; r < rows; ++r) {
    std::string prompt;
    for (int i = 0; i < kPromptTokens; ++i) {
      ids.push_back(static_cast<int32_t>(draw(static_cast<size_t>(r), static_cast<size_t>(i)) % 100000));
      prompt += (i == 0 ? "" : ",") + std::to_string(ids.back());
    }
    offsets.push_back(static_cast<int64_t>(ids.size()));
    out << R"({"custom_id":"row-)" << r << R"(","url":"/v1/completions","body":{"prompt":[)" << prompt
        << "]}}\n";
  }
  const hid_t file = H5Fcreate(hdf5.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
  const hid_t group = H5Gcreate2(file, "prompts", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
  const auto put = [&](const char* name, hid_t type, size_t count, const void* data) {
    const hsize_t size = count;
    const hid_t space = H5Screate_simple(1, &size, nullptr);
    const hid_t set = H5Dcreate2(group, name, type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    H5Dwrite(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data);
    H5Dclose(set);
    H5Sclose(space);
  };
  put("ids", H5T_NATIVE_INT32, ids.size(), ids.data());
  put("offsets", H5T_NATIVE_INT64, offsets.size(), offsets.data());
  H5Gclose(group);
  H5Fclose(file);
}

double read_requests(const fs::path& path) {
  return seconds_of([&] {
    const auto source = open_lines({path, {}, {}, {}}, kLongestLine);
    size_t prompts = 0;
    for (std::string line; source->next(line) == LineSource::Status::line;) {
      const auto request = parse_batch_line(line, {});
      prompts += std::get<Request>(request).prompts.size();
    }
    if (prompts == 0) std::abort();
  });
}

// ---- writing ----

/// As the journal keeps them.
std::vector<proto::FinishedRow> make_answers(int rows, int top) {
  std::vector<proto::FinishedRow> finished;
  for (int r = 0; r < rows; ++r) {
    Answer answer;
    answer.custom_id = "row-" + std::to_string(r);
    answer.prompt_tokens = kPromptTokens;
    if (top > 0) answer.fields.logprobs = top;
    Choice choice;
    proto::FinishedRow row;
    proto::JournaledChoice& numbers = *row.add_choices();
    for (int i = 0; i < kAnswerTokens; ++i) {
      const uint32_t bits = draw(static_cast<size_t>(r), 1000 + static_cast<size_t>(i));
      const auto logprob = -static_cast<float>(bits % 65536) / 8192;
      GeneratedToken token{static_cast<int32_t>(bits % 100000), logprob, {}};
      TokenTexts named{" tok" + std::to_string(bits % 1000), {}};
      choice.text += named.text;
      for (int k = 0; k < top; ++k) {
        token.top.emplace_back(token.id + k, logprob - 0.37F * static_cast<float>(k));
        named.top.push_back(" alt" + std::to_string((bits >> 8) % 1000 + static_cast<uint32_t>(k)));
      }
      choice.token_texts.push_back(std::move(named));
      numbers.add_tokens(token.id);
      numbers.add_logprobs(token.logprob);
      if (top > 0) {
        proto::Alternatives& alternatives = *numbers.add_top();
        for (const auto& [id, value] : token.top) {
          alternatives.add_tokens(id);
          alternatives.add_logprobs(value);
        }
      }
      choice.sequence.tokens.push_back(std::move(token));
    }
    answer.choices.push_back(std::move(choice));
    row.set_number(static_cast<uint64_t>(r));
    row.set_line(format_answer(answer));
    finished.push_back(std::move(row));
  }
  return finished;
}

void compare_writing(int rows, int top, const fs::path& folder) {
  const std::vector<proto::FinishedRow> answers = make_answers(rows, top);
  const double lines = seconds_of([&] {
    OutputFile output(folder / "out.jsonl");
    for (const proto::FinishedRow& row : answers) output.write_line(row.line());
    output.finish();
  });
  const double hdf5 = seconds_of([&] {
    Hdf5Results output(folder / "out.h5", {});
    for (const proto::FinishedRow& row : answers) output.add(result_row_of(row));
    output.finish();
  });
  const std::string what = top > 0 ? ", " + std::to_string(top) + " log-probabilities a token" : "";
  print(("write, JSON lines" + what).c_str(), rows, lines, folder / "out.jsonl", lines);
  print(("write, HDF5" + what).c_str(), rows, hdf5, folder / "out.h5", lines);
}

int run(int rows) {
  const fs::path folder = fs::temp_directory_path() / ("penstock-hdf5-bench-" + std::to_string(getpid()));
  fs::create_directories(folder);
  std::printf("%d rows, prompts of %d token ids, answers of %d tokens\n", rows, kPromptTokens, kAnswerTokens);
  write_requests(rows, folder / "in.jsonl", folder / "in.h5");
  const double lines = read_requests(folder / "in.jsonl");
  print("read and parse, JSON lines", rows, lines, folder / "in.jsonl", lines);
  print("read and parse, HDF5", rows, read_requests(folder / "in.h5"), folder / "in.h5", lines);
  compare_writing(rows, 0, folder);
  compare_writing(rows, 5, folder);
  fs::remove_all(folder);
  return 0;
}

}  // namespace
}  // namespace penstock

int main(int argc, char** argv) {
  return penstock::run(argc > 1 ? std::atoi(argv[1]) : 10000);
}
