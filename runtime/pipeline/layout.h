// Which rank is which stage: world = replicas x stages, and rank r is stage r % stages of replica r / stages.
// A replica is a whole model; nothing flows between two of them but plans and tokens.
#pragma once

namespace penstock {

struct Layout {
  int replicas = 1;
  int stages = 1;  ///< of each replica

  int ranks() const { return replicas * stages; }
  int stage_of(int rank) const { return rank % stages; }
  int replica_of(int rank) const { return rank / stages; }
  int first_rank(int replica) const { return replica * stages; }
  /// Hidden states go from this rank to the next.
  bool has_edge_from(int rank) const { return stage_of(rank) + 1 < stages; }
};

}  // namespace penstock
