# Sourced by run.sh: how jobs are started.
# shellcheck shell=bash disable=SC2034
#
# Each is called as `$cmd [--gpu N] [JOB=1:N] LOG COMMAND...`. The default runs jobs on
# this machine. Kaldi's run.pl, queue.pl and slurm.pl work in its place, with options:
#   train_cmd="queue.pl --mem 16G"

# Training and statistics
train_cmd=${train_cmd:-./scripts/run_job.sh}
# Decoding
decode_cmd=${decode_cmd:-./scripts/run_job.sh}
