// A parallel loop: `work(first, last)` over pieces of [0, n), taken by the threads as they become free.
//
// An exception in any thread ends the loop and is rethrown in the caller: one that left a thread would end the process.
// If the system starts no more threads, the existing ones do the work.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

namespace shoal {

template <class Work>
void parallel_for(int64_t n, int64_t piece, int threads, Work work) {
  const int64_t pieces = (n + piece - 1) / piece;
  threads = int(std::min<int64_t>(threads, pieces));
  std::atomic<int64_t> next{0};
  std::exception_ptr failure;
  std::once_flag first_failure;
  auto run = [&] {
    try {
      for (int64_t i; (i = next++) < pieces;) work(i * piece, std::min(n, (i + 1) * piece));
    } catch (...) {
      next = pieces;  // the others stop after their piece
      std::call_once(first_failure, [&] { failure = std::current_exception(); });
    }
  };
  std::vector<std::thread> pool;
  try {
    pool.reserve(std::max(0, threads - 1));
    for (int t = 1; t < threads; ++t) pool.emplace_back(run);
  } catch (const std::system_error&) {
  } catch (const std::bad_alloc&) {
  }
  run();
  for (auto& t : pool) t.join();
  if (failure) std::rethrow_exception(failure);
}

}  // namespace shoal
