#!/bin/bash

# Parameters
#SBATCH --account=speech
#SBATCH --array=1-12%1
#SBATCH --constraint='a100&nvlink'
#SBATCH --cpus-per-task=32
#SBATCH --exclusive
#SBATCH --gpus-per-node=a100:4
#SBATCH --job-name=agent/0720-p7d
#SBATCH --mem=65536M
#SBATCH --no-requeue
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=%A_%a.log
#SBATCH --partition=gpu
#SBATCH --qos=long
#SBATCH --signal=B:USR2@60
#SBATCH --time=1-00:00:00

# setup
give_up() { echo "hpckit: $1" >&2; [ "${HPCKIT_SCHEDULER:-}" = local ] || scancel --state=PENDING "$SLURM_JOB_ID" ${SLURM_ARRAY_JOB_ID:-}; exit 1; }
bad_node() { [ "${SLURM_ARRAY_TASK_ID:-1}" != 1 ] || give_up "$1"; echo "hpckit: $1" >&2; [ "${HPCKIT_SCHEDULER:-}" = local ] || sleep 60; exit 1; }
[ -x /opt/python/bin/python3 ] || bad_node "this node has no "/opt/python/bin/python3
cd /scratch/runs/agent/0720-p7d/chains/001 || bad_node 'the run directory is gone'
ln -sf job.pkl "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}_submitted.pkl" || bad_node 'the run directory cannot be written'
echo "$SLURM_ARRAY_TASK_ID" >> starts || bad_node 'the run directory cannot be written'; [ "$(wc -l < starts)" -le 3 ] || give_up 'the worker did not come up 3 times: see the logs before'

# command
export SUBMITIT_EXECUTOR=slurm
exec /opt/python/bin/python3 -u -m submitit.core._submit /scratch/runs/agent/0720-p7d/chains/001
