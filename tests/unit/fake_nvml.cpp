// Stands in for libnvidia-ml.so.1: one GPU, "GPU-1".
#include <cstring>

extern "C" {
static int users = 0;
int nvmlInit_v2() {
  ++users;
  return 0;
}
int nvmlShutdown() {
  --users;
  return 0;
}
int fake_nvml_users() {
  return users;
}
int nvmlDeviceGetHandleByUUID(const char* uuid, void** device) {
  *device = &users;
  return std::strcmp(uuid, "GPU-1") == 0 ? 0 : 6;
}
int nvmlDeviceGetUtilizationRates(void*, unsigned* percent) {
  percent[0] = 87;
  percent[1] = 12;
  return 0;
}
int nvmlDeviceGetMemoryInfo(void*, unsigned long long* bytes) {
  bytes[0] = 1000;
  bytes[1] = 300;
  bytes[2] = 700;
  return 0;
}
}
