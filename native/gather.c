// SPDX-License-Identifier: GPL-2.0-only
/*
 * ALLOC_READ with GATHER: while the caller allocates batch n + 1, a worker
 * reads batch n.
 *
 * What workers use is not the caller's.  When it is killed they stop after the
 * chunk they are at, and it waits for that; but a read that never ends (of a
 * suspended disk, from a server that is gone) does not keep it from dying: then
 * the last worker tidies up.
 */
#include <linux/blk-cgroup.h>
#include <linux/cgroup.h>
#include <linux/completion.h>
#include <linux/cred.h>
#include <linux/file.h>
#include <linux/kthread.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/sort.h>
#include <linux/spinlock.h>

#include "loader.h"

/* A stretch of time, in ns. */
struct dml_span {
	u64 start;
	u64 end;
};

/* How long a killed caller waits for reads under way. */
#define DML_PATIENCE	(5 * HZ)

static struct workqueue_struct *dml_workqueue;

/**
 * struct dml_gather - the workers of one load
 * @load:	the load, with the argument below
 * @arg:	copy of the caller's
 * @works:	one for each batch
 * @spans:	room for as many
 * @nr:		how many batches there are to be
 * @lock:	protects the four fields below
 * @queued:	how many are allocated
 * @next:	how many of those a worker has taken
 * @busy:	how many workers there are; plus 1 while the caller allocates
 * @abandoned:	the caller is gone; the last worker releases everything
 * @done:	when @busy is 0, unless @abandoned
 * @error:	the first worker's error
 * @cred:	the caller's credentials, which security modules ask for
 * @memcg:	the caller's memory cgroup, which page cache is charged to
 * @blkcg:	the caller's I/O cgroup
 */
struct dml_gather {
	struct dml_load load;
	struct dmatrace_loader_alloc_read arg;
	struct dmatrace_loader_work *works;
	struct dml_span *spans;
	unsigned long nr;
	spinlock_t lock;	/* queued, next, busy, abandoned */
	unsigned long queued;
	unsigned long next;
	unsigned int busy;
	bool abandoned;
	struct completion done;
	int error;
	const struct cred *cred;
	struct mem_cgroup *memcg;
	struct cgroup_subsys_state *blkcg;
};

static void dml_gather_free(struct dml_gather *gather)
{
	kvfree(gather->spans);
	kvfree(gather->works);
	kfree(gather);
}

static struct dml_gather *dml_gather_create(struct dml_load *load)
{
	struct dml_gather *gather = kzalloc(sizeof(*gather), GFP_KERNEL_ACCOUNT);

	if (!gather)
		return NULL;
	gather->arg = *load->arg;
	gather->load = *load;
	gather->load.arg = &gather->arg;
	gather->nr = DIV_ROUND_UP(load->buffer->nr_pages, load->arg->gather >> PAGE_SHIFT);
	gather->works = kvcalloc(gather->nr, sizeof(*gather->works), DML_GFP_TABLE);
	gather->spans = kvcalloc(gather->nr, sizeof(*gather->spans), DML_GFP_TABLE);
	if (!gather->works || !gather->spans) {
		dml_gather_free(gather);
		return NULL;
	}
	spin_lock_init(&gather->lock);
	gather->busy = 1;
	init_completion(&gather->done);
	get_file(load->file);
	gather->cred = get_current_cred();
	gather->memcg = get_mem_cgroup_from_mm(current->mm);
#ifdef CONFIG_BLK_CGROUP
	gather->blkcg = task_get_css(current, io_cgrp_id);
#endif
	return gather;
}

static void dml_gather_release(struct dml_gather *gather)
{
	if (gather->blkcg)
		css_put(gather->blkcg);
	mem_cgroup_put(gather->memcg);
	put_cred(gather->cred);
	fput(gather->load.file);
	dml_gather_free(gather);
}

/* The caller left while there were workers; this is the last one's duty. */
static void dml_gather_bury(struct dml_gather *gather)
{
	dml_buffer_free(gather->load.buffer);
	dml_gather_release(gather);
	/* Unloading waits for the workqueue, so for the rest of this function too. */
	module_put(THIS_MODULE);
}

/**
 * dmatrace_loader_gather_work - read one batch, in a worker
 * @work:	the batch; begins with the ids of the thread that asked for it
 */
noinline __noclone void dmatrace_loader_gather_work(struct dmatrace_loader_work *work)
{
	struct dml_gather *gather = work->gather;

	work->read_start = ktime_get_ns();
	if (!READ_ONCE(gather->load.stop))
		work->error = dml_read_batch(&gather->load, work->first, work->nr,
					     work->file_offset, work->length, &work->done,
					     &work->vmap_ns);
	else
		work->error = -ECANCELED;
	work->read_end = ktime_get_ns();
	if (work->error && work->error != -ECANCELED) {
		cmpxchg(&gather->error, 0, work->error);
		WRITE_ONCE(gather->load.stop, 1);
	}
}

/* The next batch for a worker; or, if @stays is false or there is none, one worker fewer. */
static struct dmatrace_loader_work *dml_gather_next(struct dml_gather *gather, bool stays)
{
	struct dmatrace_loader_work *work = NULL;
	bool last = false, abandoned;

	spin_lock(&gather->lock);
	if (stays && gather->next < gather->queued)
		work = &gather->works[gather->next++];
	else
		last = !--gather->busy;
	abandoned = gather->abandoned;
	spin_unlock(&gather->lock);
	/* From here on @gather is the caller's, if this was the last to use it. */
	if (last && abandoned)
		dml_gather_bury(gather);
	else if (last)
		complete(&gather->done);
	return work;
}

static void dml_gather_run(struct work_struct *ready)
{
	struct dmatrace_loader_work *work = container_of(ready, struct dmatrace_loader_work, work);
	struct dml_gather *gather = work->gather;

	while (work) {
		const struct cred *cred = override_creds(gather->cred);
		struct mem_cgroup *memcg = set_active_memcg(gather->memcg);

		kthread_associate_blkcg(gather->blkcg);
		dmatrace_loader_gather_work(work);
		kthread_associate_blkcg(NULL);
		set_active_memcg(memcg);
		revert_creds(cred);
		work = dml_gather_next(gather, true);
	}
}

/* Fills in the next batch, and starts a worker if there may be one more. */
static void dml_gather_queue(struct dml_gather *gather, u64 alloc_start, unsigned long first,
			     unsigned long nr)
{
	struct dmatrace_loader_work *work = &gather->works[gather->queued];
	u64 offset = (u64)first << PAGE_SHIFT;

	work->owner_tgid = task_tgid_nr(current);
	work->owner_tid = task_pid_nr(current);
	work->file_offset = gather->arg.file_offset + offset;
	work->length = min(gather->arg.length - offset, (u64)nr << PAGE_SHIFT);
	work->gather = gather;
	work->first = first;
	work->nr = nr;
	work->alloc_start = alloc_start;
	work->alloc_end = ktime_get_ns();
	INIT_WORK(&work->work, dml_gather_run);
	spin_lock(&gather->lock);
	gather->queued++;
	work = NULL;
	if (gather->busy - 1 < gather->arg.jobs) {
		gather->busy++;
		work = &gather->works[gather->next++];
	}
	spin_unlock(&gather->lock);
	if (work)
		queue_work(dml_workqueue, &work->work);
}

/**
 * dmatrace_loader_gather_wait - wait for the workers of a load
 * @gather:	the load's workers
 *
 * Ends early what they do if the caller is killed.
 *
 * Return: true, or false if they did not end: then @gather and its pages are theirs.
 */
noinline __noclone bool dmatrace_loader_gather_wait(struct dml_gather *gather)
{
	bool abandoned;

	dml_gather_next(gather, false);
	if (!wait_for_completion_killable(&gather->done))
		return true;
	WRITE_ONCE(gather->load.stop, 1);
	if (wait_for_completion_timeout(&gather->done, DML_PATIENCE))
		return true;
	spin_lock(&gather->lock);
	abandoned = gather->busy;
	if (abandoned)
		__module_get(THIS_MODULE);
	gather->abandoned = abandoned;
	spin_unlock(&gather->lock);
	if (abandoned)
		return false;
	wait_for_completion(&gather->done);
	return true;
}

/* Allocates batch after batch, and queues each. */
static int dml_gather_alloc(struct dml_gather *gather)
{
	struct dml_buffer *buffer = gather->load.buffer;
	unsigned long batch = gather->arg.gather >> PAGE_SHIFT;
	unsigned long first;
	int ret;

	for (first = 0; first < buffer->nr_pages; first += batch) {
		unsigned long nr = min(batch, buffer->nr_pages - first);
		u64 start = ktime_get_ns();

		if (READ_ONCE(gather->load.stop))
			return 0;
		ret = dmatrace_loader_alloc(buffer, first + nr);
		if (ret)
			return ret;
		dml_gather_queue(gather, start, first, nr);
	}
	return 0;
}

static int dml_compare_start(const void *a, const void *b)
{
	const struct dmatrace_loader_work *x = a, *y = b;

	return x->read_start < y->read_start ? -1 : x->read_start > y->read_start;
}

/*
 * Sums of allocation, of reads (their union: batches may be read side by side)
 * and of both at once.  Both lists are in order of time, so one pass will do.
 */
static void dml_gather_times(struct dml_gather *gather)
{
	struct dmatrace_loader_alloc_read *arg = &gather->arg;
	struct dmatrace_loader_work *works = gather->works;
	struct dml_span *spans = gather->spans;
	unsigned long i, j = 0, nr = gather->queued;
	u64 until = 0;

	for (i = 0; i < nr; i++) {
		spans[i].start = works[i].alloc_start;
		spans[i].end = works[i].alloc_end;
		arg->alloc_ns += spans[i].end - spans[i].start;
		arg->vmap_ns += works[i].vmap_ns;
	}
	sort(works, nr, sizeof(*works), dml_compare_start, NULL);
	for (i = 0; i < nr; i++) {
		u64 start = max(works[i].read_start, until);

		if (works[i].read_end <= start)
			continue;
		until = works[i].read_end;
		arg->read_ns += until - start;
		/* Spans that end before this read are of no use to later ones either. */
		while (j < nr && spans[j].end <= start)
			j++;
		while (j < nr && spans[j].start < until) {
			arg->overlap_ns += min(until, spans[j].end) - max(start, spans[j].start);
			if (spans[j].end > until)
				break;
			j++;
		}
	}
}

static int dml_gather_finish(struct dml_gather *gather, int ret)
{
	struct dmatrace_loader_alloc_read *arg = &gather->arg;
	bool whole = true;
	unsigned long i;

	/* What was read without a gap; batches are in file order until they are sorted. */
	for (i = 0; i < gather->queued; i++) {
		if (whole)
			arg->bytes += gather->works[i].done;
		whole = whole && gather->works[i].done == gather->works[i].length;
	}
	arg->batches = gather->queued;
	dml_gather_times(gather);
	if (ret)
		return ret;
	if (gather->error)
		return gather->error;
	return gather->load.stop ? -EINTR : 0;
}

/* Fills load->buffer; if it returns with load->buffer NULL, others still use the pages. */
int dml_gather(struct dml_load *load)
{
	struct dml_gather *gather = dml_gather_create(load);
	u64 start;
	int ret;

	if (!gather)
		return -ENOMEM;
	ret = dml_gather_alloc(gather);
	if (ret)
		WRITE_ONCE(gather->load.stop, 1);
	start = ktime_get_ns();
	if (!dmatrace_loader_gather_wait(gather)) {
		load->buffer = NULL;
		return -EINTR;
	}
	gather->arg.wait_ns = ktime_get_ns() - start;
	ret = dml_gather_finish(gather, ret);
	*load->arg = gather->arg;
	dml_gather_release(gather);
	return ret;
}

int dml_gather_init(void)
{
	dml_workqueue = alloc_workqueue("dmatrace_loader", WQ_UNBOUND, 0);
	return dml_workqueue ? 0 : -ENOMEM;
}

void dml_gather_exit(void)
{
	destroy_workqueue(dml_workqueue);
}
