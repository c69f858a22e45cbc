// The file that keeps which algorithms multiply fastest. Needs no GPU.
#include "kernels/cuda/algorithm_file.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>

#include "runtime/base/error.h"

namespace penstock::cuda {
namespace {

class Algorithms : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (std::filesystem::temp_directory_path() / "penstock-test-XXXXXX").string();
    folder_ = mkdtemp(pattern.data());
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string path() const { return folder_ / "algorithms"; }

  static ProductAlgorithm some(unsigned char byte) {
    ProductAlgorithm algorithm;
    std::memset(&algorithm.cublaslt, byte, sizeof algorithm.cublaslt);
    return algorithm;
  }
  static bool same(const ProductAlgorithm& a, const ProductAlgorithm& b) {
    return a.skinny == b.skinny && std::memcmp(&a.cublaslt, &b.cublaslt, sizeof a.cublaslt) == 0;
  }

  std::filesystem::path folder_;
  const ProductKind kind_{4096, 14336, DType::bf16, DType::f32, false, true};
};

TEST_F(Algorithms, AreThereForTheNextJobOnTheSameDevice) {
  {
    AlgorithmFile file(path(), "library 1, device A");
    EXPECT_FALSE(file.find(kind_, 64));
    file.add(kind_, 64, some(0xAB));
    file.add(kind_, 8, {true, {}});
    file.add(kind_, 64, some(0xCD));
  }
  const AlgorithmFile again(path(), "library 1, device A");
  ASSERT_TRUE(again.find(kind_, 64));
  EXPECT_TRUE(same(*again.find(kind_, 64), some(0xCD))) << "the last one counts";
  EXPECT_TRUE(again.find(kind_, 8)->skinny);
  EXPECT_FALSE(again.find(kind_, 128));
  ProductKind other = kind_;
  other.add = false;
  EXPECT_FALSE(again.find(other, 64));
}

TEST_F(Algorithms, OfAnotherLibraryOrDeviceAreForgotten) {
  AlgorithmFile(path(), "library 1, device A").add(kind_, 64, some(1));
  EXPECT_FALSE(AlgorithmFile(path(), "library 2, device A").find(kind_, 64));
  EXPECT_FALSE(AlgorithmFile(path(), "library 1, device A").find(kind_, 64)) << "the file was begun anew";
}

TEST_F(Algorithms, ALineTornByACrashIsLeftOut) {
  AlgorithmFile(path(), "device A").add(kind_, 64, some(1));
  std::ofstream(path(), std::ios::app) << "4096 14336 1";
  const AlgorithmFile file(path(), "device A");
  EXPECT_TRUE(file.find(kind_, 64));
}

TEST_F(Algorithms, AFileThatCannotBeMadeIsNamed) {
  try {
    AlgorithmFile(folder_ / "missing" / "algorithms", "device A");
    FAIL();
  } catch (const UsageError& e) {
    EXPECT_NE(std::string(e.what()).find("missing/algorithms: expected a file that can be written"),
              std::string::npos)
        << e.what();
  }
}

}  // namespace
}  // namespace penstock::cuda
