// A snapshot in Prometheus's text format, version 0.0.4. Names: docs/formats.md.
#pragma once

#include <string>
#include <vector>

#include "runtime/metrics/job_metrics.h"

namespace penstock {

constexpr const char* kPrometheusContentType = "text/plain; version=0.0.4; charset=utf-8";

/// vLLM's names stand under "penstock:" and once more under each of `aliases` ("vllm:"); the others only
/// under "penstock:".
std::string prometheus_text(const JobSnapshot& snapshot, const std::vector<std::string>& aliases);

}  // namespace penstock
