// The fuzzers' seeds, and random damage done to them, without a fuzzer.
#include <gtest/gtest.h>

#include <sstream>

#include "tests/fuzz/fuzz_targets.h"
#include "tests/unit/text_data.h"

namespace penstock {
namespace {

std::vector<std::string> seeds(const char* name) {
  std::vector<std::string> out;
  for (const auto& entry : std::filesystem::directory_iterator(std::filesystem::path(PENSTOCK_SOURCE_DIR) /
                                                               "tests" / "fuzz" / "corpus" / name)) {
    std::ifstream in(entry.path(), std::ios::binary);
    std::stringstream text;
    text << in.rdbuf();
    out.push_back(text.str());
  }
  return out;
}

std::string damaged(std::string text, std::mt19937& random) {
  for (size_t n = 1 + random() % 4; n > 0 && !text.empty(); --n) {
    const size_t at = random() % text.size();
    switch (random() % 4) {
      case 0:
        text[at] = static_cast<char>(random() % 256);
        break;
      case 1:
        text.erase(at, 1 + random() % 8);
        break;
      case 2:
        text.insert(at, text.substr(random() % text.size(), random() % 16));
        break;
      default:
        text.resize(at);
        break;
    }
  }
  return text;
}

void survives(const char* name, void (*target)(const std::string&)) {
  std::mt19937 random(13);
  const std::vector<std::string> all = seeds(name);
  ASSERT_FALSE(all.empty());
  for (const std::string& seed : all) {
    target(seed);
    for (int i = 0; i < 5; ++i) target(damaged(seed, random));
  }
}

TEST(FuzzCorpus, NoTokenizerFileCrashesTheTokenizer) {
  survives("tokenizer_json", fuzz::tokenizer_json);
}
TEST(FuzzCorpus, NoTemplateCrashesTheRenderer) {
  survives("chat_template", fuzz::chat_template);
}
TEST(FuzzCorpus, NoBatchLineCrashesTheIntake) {
  survives("batch_line", fuzz::batch_line);
}

}  // namespace
}  // namespace penstock
