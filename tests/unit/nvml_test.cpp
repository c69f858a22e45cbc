// How busy a GPU is, from a library that stands in for NVIDIA's.
#include "runtime/device/nvml.h"

#include <dlfcn.h>
#include <gtest/gtest.h>

namespace penstock {
namespace {

TEST(Nvml, TellsHowBusyAGpuIsAndWhatItsMemoryHolds) {
  void* library = dlopen(FAKE_NVML, RTLD_NOW);
  ASSERT_NE(library, nullptr) << dlerror();
  auto* users = reinterpret_cast<int (*)()>(dlsym(library, "fake_nvml_users"));
  {
    const auto nvml = Nvml::open("GPU-1", FAKE_NVML);
    ASSERT_NE(nvml, nullptr);
    EXPECT_DOUBLE_EQ(*nvml->utilization(), 0.87);
    EXPECT_EQ(nvml->memory()->total, 1000u);
    EXPECT_EQ(nvml->memory()->free, 300u);
    EXPECT_EQ(users(), 1);
  }
  EXPECT_EQ(users(), 0) << "what was begun is ended";
  EXPECT_EQ(Nvml::open("GPU-2", FAKE_NVML), nullptr) << "another GPU";
  EXPECT_EQ(users(), 0);
  dlclose(library);
}

TEST(Nvml, IsAbsentWithoutItsLibrary) {
  EXPECT_EQ(Nvml::open("GPU-1", "/no/such/library.so"), nullptr);
  EXPECT_EQ(Nvml::open("GPU-1", "libm.so.6"), nullptr) << "another library";
}

}  // namespace
}  // namespace penstock
