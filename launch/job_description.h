// What metrics, page and trace say of a job before it runs.
#pragma once

#include <string>

#include "launch/rank_job.h"
#include "runtime/metrics/job_metrics.h"

namespace penstock {

/// --served-model-name, or what the model's folder is called.
std::string model_name(const JobOptions& options);

JobDescription describe(const JobOptions& options, const ReadyRank& ready);

}  // namespace penstock
