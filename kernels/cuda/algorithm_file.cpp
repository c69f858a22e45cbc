#include "kernels/cuda/algorithm_file.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>

#include "runtime/base/error.h"

namespace penstock::cuda {
namespace {

constexpr size_t kWords = sizeof(cublasLtMatmulAlgo_t) / sizeof(uint64_t);
static_assert(sizeof(cublasLtMatmulAlgo_t) == kWords * sizeof(uint64_t));

std::string text_of(const ProductKind& kind, int64_t range, const ProductAlgorithm& algorithm) {
  std::ostringstream line;
  line << kind.n << ' ' << kind.k << ' ' << static_cast<int>(kind.weight) << ' ' << static_cast<int>(kind.out)
       << ' ' << kind.bias << ' ' << kind.add << ' ' << range << ' ' << algorithm.skinny << std::hex;
  uint64_t words[kWords];
  std::memcpy(words, &algorithm.cublaslt, sizeof words);
  for (const uint64_t word : words) line << ' ' << word;
  line << '\n';
  return line.str();
}

}  // namespace

AlgorithmFile::AlgorithmFile(std::string path, const std::string& made_for) : path_(std::move(path)) {
  std::ifstream in(path_);
  std::string line;
  if (in && std::getline(in, line) && line == made_for) {
    while (std::getline(in, line)) {
      std::istringstream words_in(line);
      ProductKind kind{};
      int weight = 0, out = 0;
      int64_t range = 0;
      ProductAlgorithm algorithm;
      uint64_t words[kWords] = {};
      words_in >> kind.n >> kind.k >> weight >> out >> kind.bias >> kind.add >> range >> algorithm.skinny >>
          std::hex;
      for (uint64_t& word : words) words_in >> word;
      if (!words_in) continue;  // torn by a crash: it is found out again
      kind.weight = static_cast<DType>(weight);
      kind.out = static_cast<DType>(out);
      std::memcpy(&algorithm.cublaslt, words, sizeof words);
      known_[{kind, range}] = algorithm;
    }
    return;
  }
  std::ofstream begun(path_, std::ios::trunc);
  if (!(begun << made_for << '\n' << std::flush))
    throw UsageError("--matmul-cache " + path_ +
                     ": expected a file that can be written, found: " + std::strerror(errno));
}

std::optional<ProductAlgorithm> AlgorithmFile::find(const ProductKind& kind, int64_t range) const {
  const auto found = known_.find({kind, range});
  return found == known_.end() ? std::nullopt : std::optional(found->second);
}

void AlgorithmFile::add(const ProductKind& kind, int64_t range, const ProductAlgorithm& algorithm) {
  // A cache that cannot be written any more costs the next job a second; it is no reason to end this one.
  std::ofstream(path_, std::ios::app) << text_of(kind, range, algorithm) << std::flush;
}

}  // namespace penstock::cuda
