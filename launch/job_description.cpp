#include "launch/job_description.h"

namespace penstock {

std::string model_name(const JobOptions& options) {
  return options.served_model_name.empty() ? options.model.lexically_normal().filename().string()
                                           : options.served_model_name;
}

JobDescription describe(const JobOptions& options, const ReadyRank& ready) {
  JobDescription job;
  job.model_name = model_name(options);
  job.numerics = ready.numerics;
  job.cache_dtype = name_of(ready.shape.kv_dtype);
  job.block_size = options.block_size;
  job.blocks = ready.blocks;
  job.max_model_len = ready.shape.max_model_len;
  job.micro_batches = ready.shape.schedule.micro_batches;
  job.replicas = ready.shape.layout.replicas;
  job.processors = ready.processors;
  for (const StageFacts& facts : ready.facts)
    job.stages.push_back({static_cast<int>(job.stages.size()), facts.host, facts.device, facts.part});
  return job;
}

}  // namespace penstock
