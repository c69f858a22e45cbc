// What the fuzzers call. tests/unit/fuzz_corpus_test.cpp runs the same over the seeds in tests/fuzz/corpus.
// Built as fuzzers with clang: each source file of tests/fuzz that defines LLVMFuzzerTestOneInput is one,
// with -fsanitize=fuzzer.
#pragma once

#include <cstdint>
#include <string>

namespace penstock::fuzz {

/// `input` is a tokenizer.json. Whatever loads must encode and decode without a crash, and its stream of text
/// must join to decoding at once. Aborts where it does not.
void tokenizer_json(const std::string& input);

/// `input` is a chat template, rendered over a conversation with tools. It may fail, not crash or hang.
void chat_template(const std::string& input);

/// `input` is one line of a batch file. It is read, its conversation rendered over a small template, and what
/// it says when it is refused must be a row's error that can be printed.
void batch_line(const std::string& input);

}  // namespace penstock::fuzz
