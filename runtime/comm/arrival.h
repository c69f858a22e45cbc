// Who of this host has arrived, before MPI can say: MPI_Init returns only when everyone has come. Each
// process binds a socket named after its job and rank in Linux's abstract namespace, which leaves no file
// behind and ends with the process.
#pragma once

#include <string>

namespace penstock {

class ArrivalMark {
 public:
  ArrivalMark(const std::string& job, int rank);
  ~ArrivalMark();
  ArrivalMark(const ArrivalMark&) = delete;
  ArrivalMark& operator=(const ArrivalMark&) = delete;

  /// Whether that rank has made its mark on this host.
  bool seen(int rank) const;
  /// Tells those of the first `size` ranks that are seen that what is wrong has been said; true if nobody has
  /// told this rank so before.
  bool speak_for_all(int size) const;

 private:
  std::string job_;
  int rank_;
  int socket_;
};

}  // namespace penstock
