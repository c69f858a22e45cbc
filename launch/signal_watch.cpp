#include "launch/signal_watch.h"

#include <pthread.h>

#include <string>

namespace penstock {
namespace {

sigset_t watched_signals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGUSR1);
  return set;
}

const char* name_of_signal(int signal) {
  return signal == SIGINT ? "SIGINT" : signal == SIGUSR1 ? "SIGUSR1" : "SIGTERM";
}

}  // namespace

void SignalWatch::block_signals() {
  const sigset_t set = watched_signals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

SignalWatch::SignalWatch(World& world) : world_(world), thread_([this] { wait_for_signal(); }) {}

SignalWatch::~SignalWatch() {
  over_ = true;
  pthread_kill(thread_.native_handle(), SIGTERM);
  thread_.join();
}

void SignalWatch::wait_for_signal() {
  const sigset_t set = watched_signals();
  for (;;) {
    int signal = 0;
    sigwait(&set, &signal);
    // mpirun sends SIGTERM to everyone when one rank has died: then the death is the news, not the signal.
    if (over_ || (signal == SIGTERM && world_.report_lost_peer())) return;
    world_.request_stop(name_of_signal(signal));
  }
}

}  // namespace penstock
