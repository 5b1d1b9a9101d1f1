"""The protections: where each stands in the code, what remains without it, and which tests fail then."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Edit(NamedTuple):
    """A text that stands once in a file, and what takes its place."""

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Protection:
    """A part of the code without which a promise is broken.

    Attributes
    ----------
    name
        What the docstrings of its tests say after "Fails without: ".
    edits
        Together they remove it.
    tests
        Ids of tests, of each of which at least one case must fail.
    """

    name: str
    edits: tuple[Edit, ...]
    tests: tuple[str, ...]


JOBS, LUA, STORE = "shared/shoal/jobs", "shared/shoal/jobs/lua", "shared/shoal/store"
FAULTS, WORKER, QUEUE = "tests/faults", "tests/shared/jobs/test_worker.py", "tests/shared/jobs/test_queue.py"
EXTRACTOR, CLUSTERER = "services/extractor", "services/clusterer"
NEVER = "except NotImplementedError as error"

LINK = Edit(f"{STORE}/files.py", "os.link(source, final)", "os.replace(source, final)")

PROTECTIONS = (
    # Processes.
    Protection(
        "another attempt after a child that died",
        (Edit(f"{JOBS}/attempt.py", "self._died(status).problem(), True", "self._died(status).problem(), False"),),
        (
            f"{FAULTS}/test_workers.py::test_killed_child_is_replaced",
            f"{FAULTS}/test_analyses_kill.py::test_jobs_outlive_their_killed_children_and_their_killed_workers",
        ),
    ),
    Protection(
        "the reaping of leases that are over",
        (Edit(f"{JOBS}/worker.py", "reaped = self._call_queue(self._queue.reap)", "reaped: list[str] = []"),),
        (
            f"{FAULTS}/test_workers.py::test_a_killed_workers_job_is_claimed_again_when_its_lease_is_over",
            f"{FAULTS}/test_workers.py::test_job_of_a_killed_worker_is_finished_by_another",
            f"{FAULTS}/test_workers.py::test_job_that_takes_its_workers_down_fails_in_the_end",
        ),
    ),
    Protection(
        "the death signal that a child asks the kernel for",
        (
            Edit(
                "shared/shoal/process.py",
                "if _libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0) != 0:",
                "if number < 0:",
            ),
        ),
        (f"{FAULTS}/test_workers.py::test_child_that_hears_nothing_dies_with_its_worker",),
    ),
    Protection(
        "the owner and the attempt that each report of a worker must name",
        (
            Edit(
                f"{LUA}/prelude.lua",
                "job.state == 'running' and job.owner == owner and job.attempt == attempt then return job",
                "job.state == 'running' then return job",
            ),
        ),
        (
            f"{FAULTS}/test_workers.py::test_stopped_worker_is_fenced_when_it_continues",
            f"{FAULTS}/test_workers.py::test_the_end_that_a_stopped_worker_reports_late_is_refused",
            f"{FAULTS}/test_network.py::test_a_worker_that_the_network_forgot_loses_its_lease_and_is_fenced",
        ),
    ),
    Protection(
        "the look at the disk before a job is claimed",
        (Edit(f"{JOBS}/worker.py", "claim = None if self._store_is_full() else", "claim ="),),
        (f"{WORKER}::test_jobs_wait_while_the_stores_disk_is_full",),
    ),
    Protection(
        "the look at when the child last said something",
        (
            Edit(
                f"{JOBS}/attempt.py",
                "if now - self._last_event_at > self._settings.child_silence_s and",
                "if False and",
            ),
        ),
        (f"{WORKER}::test_silent_child_is_killed_and_the_attempt_counts",),
    ),
    Protection(
        "the attempt being taken off when a job is handed back",
        (Edit(f"{LUA}/hand_back.lua", "redis.call('HINCRBY', job_key(job.id), 'attempt', -1)", ""),),
        (
            f"{FAULTS}/test_extract_kill.py::test_a_drained_worker_hands_the_job_back_uncounted",
            f"{WORKER}::test_drained_worker_hands_its_job_back_uncounted_and_exits",
        ),
    ),
    Protection(
        "the end of a waiting job when it is cancelled",
        (Edit(f"{LUA}/cancel.lua", "if job.state == 'queued' then", "if false then"),),
        (f"{QUEUE}::test_cancelling_a_queued_job_ends_it",),
    ),
    Protection(
        "the wish to cancel in the answer to a renewal",
        (Edit(f"{JOBS}/attempt.py", "elif renewal.cancel_requested and self._ending is None:", "elif False:"),),
        (
            f"{WORKER}::test_cancelled_job_stops_at_its_next_safe_point",
            f"{FAULTS}/test_extract_kill.py::test_a_cancelled_job_stops_within_seconds_and_keeps_its_shards",
        ),
    ),
    Protection(
        "the look at the wish to cancel before a job is queued again",
        (Edit(f"{LUA}/prelude.lua", "  if job.cancel_requested then return finish(job, 'cancelled') end\n", ""),),
        (
            f"{QUEUE}::test_job_asked_to_cancel_is_never_queued_again",
            f"{FAULTS}/test_workers.py::test_worker_killed_while_its_job_is_cancelled_leaves_it_cancelled",
        ),
    ),
    Protection(
        "a result counting for more than the wish to cancel",
        (
            Edit(
                f"{JOBS}/attempt.py",
                "            case _, Succeeded(result):\n"
                '                return "succeed", partial(queue.succeed, claim, result)\n'
                "            case Ending.CANCEL, _:\n"
                '                return "cancelled", partial(queue.cancelled, claim)\n',
                "            case Ending.CANCEL, _:\n"
                '                return "cancelled", partial(queue.cancelled, claim)\n'
                "            case _, Succeeded(result):\n"
                '                return "succeed", partial(queue.succeed, claim, result)\n',
            ),
        ),
        (f"{WORKER}::test_a_job_that_has_published_when_it_is_cancelled_has_succeeded",),
    ),
    Protection(
        "the commits of earlier attempts, whose shards are left out of the next one",
        (
            Edit(
                f"{STORE}/reader.py",
                "return [shard for shard in range(self.plan.shards) if shard not in self._by_shard]",
                "return list(range(self.plan.shards))",
            ),
            Edit(f"{EXTRACTOR}/stream/shards.py", "self.look(at_once=True)\n", "pass\n"),
            Edit(f"{EXTRACTOR}/stream/shards.py", "if not self._layout.has(commit):", "if True:"),
        ),
        (
            f"{FAULTS}/test_extract_kill.py::test_a_job_outlives_its_killed_child_and_its_killed_worker",
            f"{FAULTS}/test_bucket_kill.py::test_a_job_goes_on_after_the_shards_of_a_killed_worker",
        ),
    ),
    Protection(
        "the reading of what was saved of a shard",
        (Edit(f"{EXTRACTOR}/stream/sink.py", "if layout.has(layout.parts(number)):", "if False:"),),
        (
            f"{FAULTS}/test_extract_kill.py::test_an_unfinished_shard_is_taken_up_where_it_was_saved",
            f"{FAULTS}/test_sharing.py::test_what_a_killed_helper_had_saved_of_a_shard_is_used",
        ),
    ),
    Protection(
        "the wait for commits under way",
        (
            Edit(
                f"{EXTRACTOR}/stream/sink.py",
                "while self._writes and self.at_risk + len(part) > self._most_at_risk:",
                "while False:",
            ),
        ),
        ("tests/extractor/test_pipeline.py::test_no_more_than_a_shard_is_neither_committed_nor_saved",),
    ),
    Protection(
        "the look at who still renews, before a shard counts as taken",
        (Edit(f"{LUA}/take.lua", "by.owner ~= owner and alive[by.owner] then", "by.owner ~= owner then"),),
        (f"{FAULTS}/test_sharing.py::test_a_killed_helper_loses_nothing",),
    ),
    Protection(
        "the unit that a worker must take before it begins a shard",
        (Edit(f"{LUA}/take.lua", "if by and by.owner ~= owner and alive[by.owner] then", "if false then"),),
        (f"{FAULTS}/test_sharing.py::test_two_workers_embed_each_shard_of_a_job_once",),
    ),
    Protection(
        "the claim, which takes a job out of the line",
        (
            Edit(f"{LUA}/claim.lua", "    redis.call('ZREM', ready_key(arg(i)), id)\n", ""),
            Edit(f"{LUA}/claim.lua", "if not job or job.state ~= 'queued' then return {'none'} end", ""),
        ),
        (f"{FAULTS}/test_queue.py::test_of_many_workers_each_job_goes_to_one",),
    ),
    Protection(
        "the state that is kept after each iteration",
        (
            Edit(
                f"{CLUSTERER}/jobs/workspace.py",
                "arrays = read_kept(self._state_file(seed, restart))",
                "arrays: Arrays | None = None",
            ),
        ),
        ("tests/clusterer/jobs/test_resume.py::test_a_stopped_job_computes_no_iteration_twice_but_the_one_it_was_in",),
    ),
    Protection(
        "the points that are there being left out, and the link, which fails where one is",
        (
            LINK,
            Edit(f"{CLUSTERER}/jobs/sweep.py", "finished = set(sweep.finished_points())", "finished: set[int] = set()"),
        ),
        ("tests/clusterer/jobs/test_sweep_kill.py::test_a_killed_sweep_keeps_its_points_and_ends",),
    ),
    # The queue.
    Protection(
        "all leases starting again after an outage",
        (Edit(f"{LUA}/reap.lua", "if outage then", "if false then"),),
        (
            f"{FAULTS}/test_redis.py::test_restarted_server_makes_no_job_run_twice",
            f"{FAULTS}/test_redis.py::test_hanging_server_makes_no_job_run_twice",
        ),
    ),
    Protection(
        "the report of an end being repeated until the queue has it",
        (
            Edit(
                f"{JOBS}/worker.py",
                "        while (held := self._call_queue(call)) is None:",
                "        held = self._call_queue(call)\n        while False:",
            ),
        ),
        (f"{FAULTS}/test_redis.py::test_result_of_an_outage_is_delivered_after_it",),
    ),
    Protection(
        "the end of a child whose worker has lost its lease",
        (Edit(f"{JOBS}/attempt.py", "if self._ending is not Ending.FENCED:", "if False:"),),
        (f"{FAULTS}/test_queue.py::test_after_the_queues_data_is_lost_the_same_request_goes_on",),
    ),
    Protection(
        "the errors of a server that cannot write meaning that the queue is unavailable",
        (Edit(f"{JOBS}/redis_scripts.py", '_REFUSALS = ("MISCONF", ', "_REFUSALS = ("),),
        (f"{FAULTS}/test_queue.py::test_a_queue_on_a_full_disk_refuses_jobs_and_goes_on_once_there_is_space",),
    ),
    Protection(
        "the key, which the script that makes the job keeps",
        (Edit(f"{LUA}/submit.lua", "if digest ~= '' then\n  redis.call", "if false then\n  redis.call"),),
        (f"{FAULTS}/test_queue.py::test_a_post_repeated_to_an_api_that_died_in_it_makes_one_job",),
    ),
    Protection(
        "the server's own clock, by which each script measures leases",
        (
            Edit(
                f"{JOBS}/redis_scripts.py",
                "args=[*self._common, *args]",
                'args=[round(__import__("time").time() * 1e6), *self._common[1:], *args]',
            ),
            Edit(
                f"{LUA}/prelude.lua",
                "local NOW = tonumber(clock[1]) * 1000000 + tonumber(clock[2]) + OFFSET",
                "local NOW = OFFSET",
            ),
        ),
        (f"{FAULTS}/test_queue.py::test_a_worker_whose_clock_is_an_hour_off_holds_its_job_until_it_dies",),
    ),
    Protection(
        "the renewal of a lease several times before it is over",
        (
            Edit(
                f"{JOBS}/attempt.py",
                "if now - self._renewed_at >= min(due, self._period_s):",
                "if now - self._renewed_at >= 2 * self._queue.lease_s:",
            ),
        ),
        (f"{FAULTS}/test_network.py::test_a_slow_network_makes_no_job_run_twice",),
    ),
    Protection(
        "going on with the job while the queue is unreachable",
        (Edit(f"{JOBS}/worker.py", "except QueueUnavailable as error", NEVER),),
        (
            f"{FAULTS}/test_network.py::test_cut_connections_make_no_job_run_twice",
            f"{FAULTS}/test_redis.py::test_worker_started_before_its_server_waits_for_it",
        ),
    ),
    Protection(
        "the limit of time for an answer of the queue",
        (Edit(f"{JOBS}/redis_scripts.py", "socket_timeout=10.0", "socket_timeout=None"),),
        (
            f"{FAULTS}/test_network.py"
            "::test_an_api_whose_queue_is_silent_says_so_in_time_and_makes_one_job_of_what_arrives_late",
        ),
    ),
    Protection(
        "a lost connection meaning that the queue is unavailable",
        (Edit(f"{JOBS}/redis_scripts.py", "except (RedisConnectionError, RedisTimeoutError) as error", NEVER),),
        (f"{FAULTS}/test_network.py::test_an_api_that_is_cut_off_says_so_and_goes_on_once_it_is_not",),
    ),
    # The store.
    Protection(
        "the file beside a document in which its new content is written before it takes its place",
        (
            Edit(
                f"{STORE}/files.py",
                "        temporary = _write_temporary(final, write, temporary_folder, durable=durable)\n",
                '        temporary = final\n        with final.open("wb") as file:\n            write(file)\n'
                "            fsync_file(file)\n",
            ),
        ),
        (f"{FAULTS}/test_steps.py::test_a_fault_at_a_step_loses_nothing_and_leaves_nothing",),
    ),
    Protection(
        "the error of a sync that failed",
        (
            Edit(
                f"{STORE}/files.py",
                "    file.flush()\n    os.fsync(file.fileno())",
                "    file.flush()\n    with suppress(OSError):\n        os.fsync(file.fileno())",
            ),
        ),
        (
            f"{FAULTS}/test_steps.py::test_a_fault_at_a_step_loses_nothing_and_leaves_nothing",
            f"{FAULTS}/test_steps.py::test_each_fault_at_each_step_loses_nothing_and_leaves_nothing[shard-IO_ERROR]",
        ),
    ),
    Protection(
        "the link, which fails where the name is taken",
        (LINK,),
        (
            f"{FAULTS}/test_store_commit.py::test_an_attempt_that_sleeps_before_any_of_its_steps_does_no_harm",
            f"{FAULTS}/test_store_commit.py::test_of_many_threads_one_commits",
            f"{FAULTS}/test_store_commit.py::test_of_many_processes_one_commits_each_shard",
            f"{FAULTS}/test_names.py::test_of_processes_that_append_at_once_each_entry_is_kept",
        ),
    ),
    Protection(
        "the errors of a full disk being told from others",
        (Edit(f"{STORE}/files.py", "if error.errno in FULL:", "if False:"),),
        (
            f"{FAULTS}/test_store_full.py::test_a_write_that_the_system_refuses_is_store_full",
            f"{FAULTS}/test_store_full.py::test_freeing_space_on_a_full_disk_is_all_it_takes",
        ),
    ),
    Protection(
        "the checksums, which are compared when a file is first read",
        (
            Edit(
                f"{STORE}/files.py",
                "if hash_file(path, sha256=False)[:2] != (record.bytes, record.xxh3_64):",
                "if False:",
            ),
        ),
        ("tests/clusterer/test_damage.py::test_damaged_embeddings_are_never_clustered",),
    ),
    Protection(
        "the look at each committed file before a job goes on from it",
        (
            Edit(
                f"{STORE}/store.py",
                "report = self.repair(embeddings_id, deep=False, imported=True, alive=alive)",
                "report = RepairReport(embeddings_id)",
            ),
        ),
        ("tests/extractor/test_damage.py::test_exactly_the_damaged_shards_are_embedded_again",),
    ),
    Protection(
        "the look of a repair at each committed file",
        (
            Edit(
                f"{STORE}/repair.py",
                "if any(not self._matches(self._path_of(commit, record), record) for record in commit.files):",
                "if False:",
            ),
        ),
        ("tests/shared/store/test_repair.py::test_a_damaged_shard_is_taken_out_and_written_again",),
    ),
    Protection(
        "a work file that cannot be read counting as missing",
        (
            Edit(
                f"{CLUSTERER}/neighbours/work.py",
                "except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error",
                NEVER,
            ),
        ),
        (
            "tests/clusterer/jobs/test_resume.py::test_work_files_that_a_power_cut_spoilt_are_made_again",
            f"{FAULTS}/test_analyses_kill.py::test_working_files_that_a_power_cut_spoilt_are_made_again",
        ),
    ),
    Protection(
        "the look at all names of a part before it counts",
        (Edit(f"{STORE}/uploads.py", "        self._check_names(folder)\n", ""),),
        ("tests/extractor/uploads/test_parts.py::test_a_part_that_cannot_lie_beside_another_leaves_none_of_its_files",),
    ),
    Protection(
        "parts that count being moved to their places with the next one",
        (
            Edit(f"{STORE}/uploads.py", "        self.place()\n        self._check_names", "        self._check_names"),
            Edit(f"{STORE}/uploads.py", "        self.place()\n        os.sync()", "        os.sync()"),
            Edit(f"{STORE}/uploads.py", "        self.place()\n        self.touch()", "        self.touch()"),
        ),
        ("tests/extractor/uploads/test_parts.py::test_a_part_that_counts_comes_to_its_place_with_whatever_comes_next",),
    ),
    Protection(
        "the sync before a part's line is written",
        (
            Edit(
                f"{STORE}/uploads.py",
                "        os.sync()  # A part that counts has its files after a power cut, too.\n",
                "",
            ),
        ),
        ("tests/extractor/uploads/test_parts.py::test_the_files_of_a_part_are_on_the_disk_before_it_counts",),
    ),
    Protection(
        "the parts that do not count among what `shoal gc` finds",
        (
            Edit(
                "shared/shoal/gc.py",
                "yield from _old((each for upload in Uploads(layout).all() for each in upload.lost()), work_age_s)",
                "",
            ),
        ),
        ("tests/extractor/uploads/test_parts.py::test_a_part_that_never_counted_is_garbage",),
    ),
    Protection(
        "the errors of a header that cannot be read",
        (
            Edit(
                f"{STORE}/npy.py",
                "except (ValueError, SyntaxError, MemoryError, RecursionError) as error",
                NEVER,
            ),
        ),
        ("tests/security/test_mutated_bytes.py::test_changed_npy_files",),
    ),
    Protection(
        "the errors of an archive that names places beyond its end",
        (Edit(f"{EXTRACTOR}/uploads/unpack.py", "except OSError as error", NEVER),),
        ("tests/security/test_mutated_bytes.py::test_changed_bodies_of_uploads",),
    ),
    # Images.
    Protection(
        "the errors of an image being an outcome of it",
        (Edit(f"{EXTRACTOR}/images/child.py", "except ImageInvalid as error", NEVER),),
        ("tests/extractor/images/test_pool.py::test_bad_files_between_good_ones_cost_only_themselves",),
    ),
    Protection(
        "the content, and not the suffix, deciding the format",
        (
            Edit(
                f"{EXTRACTOR}/images/decode.py",
                'return (*DECODED, *_BY_SUFFIX.get(suffix_of(name) or "", ()))',
                'return tuple(each for each in DECODED if (suffix_of(name) or "")[1:3] == each[:2].lower())',
            ),
        ),
        ("tests/extractor/test_bad_images.py::test_an_image_under_another_formats_suffix_is_embedded_like_itself",),
    ),
    Protection(
        "the stamp of the listing, which the open file must have",
        (Edit(f"{EXTRACTOR}/images/decode.py", "if stamp is not None and stamp_of(before) != stamp:", "if False:"),),
        (
            "tests/extractor/images/test_pool.py::test_a_file_that_is_not_the_listed_one_is_an_error",
            "tests/extractor/test_pipeline.py::TestResume"
            "::test_a_file_edited_between_attempts_is_an_error_never_a_mixture",
            "tests/extractor/test_pipeline.py::TestResume::test_a_file_replaced_while_the_job_runs_is_an_error",
        ),
    ),
    Protection(
        "the limit of how often an image is tried",
        (Edit(f"{EXTRACTOR}/images/feeder.py", "if work.deaths < TRIES:", "if True:"),),
        ("tests/extractor/images/test_pool.py::test_an_image_that_kills_or_hangs_its_decoder_costs_only_itself",),
    ),
    Protection(
        "the limit of how long an image may take",
        (
            Edit(
                f"{EXTRACTOR}/images/feeder.py",
                "                self._receive(key.data)\n        self._end_hanging()\n",
                "                self._receive(key.data)\n",
            ),
        ),
        (
            "tests/extractor/images/test_pool.py"
            "::test_an_image_that_kills_or_hangs_its_decoder_costs_only_itself[time.sleep(600)-took longer than-3]",
            "tests/extractor/images/test_pool.py::test_an_image_that_takes_for_ever_is_given_up",
        ),
    ),
    Protection(
        "the limit of pixels that a header may claim",
        (Edit(f"{EXTRACTOR}/images/decode.py", "if pixels > max_pixels:", "if False:"),),
        ("tests/security/test_hostile_files.py::test_a_small_file_of_many_pixels_is_refused_by_its_header[data5]",),
    ),
    # Memory, and the kernels.
    Protection(
        "the account of what a job holds beside its rows",
        (
            Edit(
                f"{CLUSTERER}/jobs/memory.py",
                "return -(-(self.process_bytes + max(self.stages().values())) // MIB) * MIB",
                "return -(-self.process_bytes // MIB) * MIB",
            ),
        ),
        ("tests/clusterer/jobs/test_peak_memory.py::test_the_peak_of_a_job_stays_below_its_limit[many dimensions]",),
    ),
    Protection(
        "the files that hold rows and sketches where the limit has no room for them",
        (
            Edit(
                f"{CLUSTERER}/neighbours/prepare.py",
                "hold = room.in_memory and room.left >= sum(4 * rows.n * rows.dim for rows in sets)",
                "hold = True",
            ),
            Edit(
                f"{CLUSTERER}/neighbours/work.py",
                "self.in_memory = size <= options.memory_limit",
                "self.in_memory = True",
            ),
        ),
        (
            "tests/clusterer/jobs/test_peak_memory.py"
            "::test_the_peak_of_an_analysis_stays_below_its_limit[duplicates-20000-2048-1]",
        ),
    ),
    Protection(
        "the atomic number of the next piece",
        (Edit(f"{CLUSTERER}/native/src/parallel.h", "std::atomic<int64_t> next{0};", "int64_t next{0};"),),
        ("tests/clusterer/native/test_failures.py::test_threads_share_nothing_without_order",),
    ),
    # Hosts of models, and clusters.
    Protection(
        "the look at the weights before a request",
        (Edit(f"{EXTRACTOR}/online/models.py", "elif model.loaded.stamp != stamp:", "elif False:"),),
        (f"{FAULTS}/test_online.py::test_every_answer_is_right_while_weights_are_replaced_and_the_host_is_killed",),
    ),
    Protection(
        "503 for a host that has gone",
        (
            Edit(
                f"{EXTRACTOR}/online/client.py",
                "except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error",
                NEVER,
            ),
            Edit(f"{EXTRACTOR}/online/client.py", "except (aiohttp.ClientError, OSError) as error", NEVER),
        ),
        (f"{FAULTS}/test_online.py::test_every_answer_is_right_while_weights_are_replaced_and_the_host_is_killed",),
    ),
    Protection(
        "calls being repeated while the server is away",
        (
            Edit(
                f"{EXTRACTOR}/tf_serving/client.py",
                "if self._closed.is_set() or not _is_transient(failure):",
                "if True:",
            ),
        ),
        ("tests/extractor/tf_serving/test_client.py::TestAway::test_a_restarted_server_is_found_again",),
    ),
    Protection(
        "the limit of time for which calls are repeated",
        (
            Edit(
                f"{EXTRACTOR}/tf_serving/client.py",
                "if now - max(first_failure, self._answered_at) > self._gone_s:",
                "if False:",
            ),
        ),
        (
            "tests/extractor/tf_serving/test_client.py::TestAway"
            "::test_a_server_that_stays_away_ends_the_job_so_that_it_can_go_on_later",
        ),
    ),
    Protection(
        "the rows of a lost worker being taken over",
        (Edit(f"{CLUSTERER}/ray/pool.py", "except gone as error", NEVER),),
        ("tests/clusterer/ray/test_partitions.py::test_a_lost_node_costs_one_iteration_of_its_rows",),
    ),
    Protection(
        "the pieces of a lost node being computed on others",
        (Edit(f"{CLUSTERER}/ray/tasks.py", '"max_retries": RETRIES', '"max_retries": 0'),),
        ("tests/clusterer/ray/test_duplicates.py::test_pieces_of_a_lost_node_are_computed_on_others",),
    ),
    Protection(
        "the limit of time for which a head does not answer",
        (
            Edit(
                f"{CLUSTERER}/ray/session.py", "elif time.monotonic() - self._answered_at >= CONNECT_S:", "elif False:"
            ),
        ),
        ("tests/clusterer/ray/test_losses.py::test_a_lost_head_is_an_error_that_may_pass",),
    ),
)
