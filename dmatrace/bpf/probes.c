// SPDX-License-Identifier: GPL-2.0-only
/*
 * Pairs of an entry and an exit program serve every hook, one of them those of
 * functions that read files: they are loaded or attached once per function, and the
 * attach cookie says which hook it is
 * (Linux kernel commits 82e6b1eee6a8 "bpf: Allow to specify user-provided
 * bpf_cookie for BPF perf links" in v5.15, 2fcc82411e74 "bpf, x86: Attach a
 * cookie to fentry/fexit/fmod_ret/lsm." in v5.19).  So the C is fixed, and
 * compiling does not grow with the table.
 *
 * The cookie: hook | phase << 8 | interval << 16 | entry handler << 24 |
 * exit handler << 32.
 */
static u64 (*attach_cookie)(void *ctx) = (void *)174;           /* bpf_get_attach_cookie */
static long (*func_arg)(void *ctx, u32 n, u64 *value) = (void *)183;  /* bpf_get_func_arg */
static long (*func_ret)(void *ctx, u64 *value) = (void *)184;   /* bpf_get_func_ret */

#define COOKIE_HOOK(c) ((u32)(c) & 0xff)
#define COOKIE_PHASE(c) ((u32)((c) >> 8) & 0xff)
#define COOKIE_INTERVAL(c) ((u32)((c) >> 16) & 1)
#define COOKIE_ENTRY(c) ((u32)((c) >> 24) & 0xff)
#define COOKIE_EXIT(c) ((u32)((c) >> 32) & 0xff)

#ifdef WITH_FENTRY
/*
 * Of hooks whose handler is "none": the kernel checks a program anew for each function it
 * is to be attached to, and that is most of what attaching takes.
 */
KFUNC_PROBE(plain_hook)
{
	struct thread *t = current_thread();
	u64 cookie;

	if (!t)
		return 0;
	cookie = attach_cookie(ctx);
	enter(t, COOKIE_HOOK(cookie), COOKIE_PHASE(cookie));
	return 0;
}

KRETFUNC_PROBE(plain_hook)
{
	struct thread *t = current_thread();
	u64 cookie;

	if (!t)
		return 0;
	cookie = attach_cookie(ctx);
	leave(t, COOKIE_HOOK(cookie), COOKIE_PHASE(cookie), COOKIE_INTERVAL(cookie));
	return 0;
}

KFUNC_PROBE(any_hook)
{
	struct thread *t = current_thread();
	u64 cookie, a0 = 0, a1 = 0, a2 = 0;
	struct frame *f;

	if (!t)
		return 0;
	cookie = attach_cookie(ctx);
	f = enter(t, COOKIE_HOOK(cookie), COOKIE_PHASE(cookie));
	if (f && COOKIE_ENTRY(cookie)) {
		func_arg(ctx, 0, &a0);
		func_arg(ctx, 1, &a1);
		func_arg(ctx, 2, &a2);
		on_entry(t, f, COOKIE_ENTRY(cookie), a0, a1, a2);
	}
	return 0;
}

KRETFUNC_PROBE(any_hook)
{
	struct thread *t = current_thread();
	u64 cookie, ret = 0;
	struct frame *f;

	if (!t)
		return 0;
	cookie = attach_cookie(ctx);
	f = leave(t, COOKIE_HOOK(cookie), COOKIE_PHASE(cookie), COOKIE_INTERVAL(cookie));
	if (f && COOKIE_EXIT(cookie)) {
		func_ret(ctx, &ret);
		on_exit(t, f, COOKIE_EXIT(cookie), ret);
	}
	return 0;
}

KFUNC_PROBE(read_hook)
{
	struct thread *t = current_thread();
	u64 cookie, a0 = 0, a1 = 0, a2 = 0;
	struct frame *f;

	if (!t)
		return 0;
	cookie = attach_cookie(ctx);
	f = enter(t, COOKIE_HOOK(cookie), COOKIE_PHASE(cookie));
	if (f && COOKIE_ENTRY(cookie)) {
		func_arg(ctx, 0, &a0);
		func_arg(ctx, 1, &a1);
		func_arg(ctx, 2, &a2);
		on_read_entry(t, f, COOKIE_ENTRY(cookie), a0, a1, a2);
	}
	return 0;
}

KRETFUNC_PROBE(read_hook)
{
	struct thread *t = current_thread();
	u64 cookie, ret = 0;
	struct frame *f;

	if (!t)
		return 0;
	cookie = attach_cookie(ctx);
	f = leave(t, COOKIE_HOOK(cookie), COOKIE_PHASE(cookie), COOKIE_INTERVAL(cookie));
	if (f && COOKIE_EXIT(cookie)) {
		func_ret(ctx, &ret);
		on_read_exit(t, f, COOKIE_EXIT(cookie), ret);
	}
	return 0;
}
#endif

#ifdef WITH_KPROBE
#define REGISTER(ctx, offset) (*(u64 *)((char *)(ctx) + (offset)))

int kprobe_any_hook_entry(void *ctx)
{
	struct thread *t = current_thread();
	struct frame *f;
	u64 cookie;

	if (!t)
		return 0;
	cookie = attach_cookie(ctx);
	f = enter(t, COOKIE_HOOK(cookie), COOKIE_PHASE(cookie));
	if (f && COOKIE_ENTRY(cookie))
		on_entry(t, f, COOKIE_ENTRY(cookie), REGISTER(ctx, OFF_ARG0),
			 REGISTER(ctx, OFF_ARG1), REGISTER(ctx, OFF_ARG2));
	return 0;
}

int kprobe_any_hook_exit(void *ctx)
{
	struct thread *t = current_thread();
	struct frame *f;
	u64 cookie;

	if (!t)
		return 0;
	cookie = attach_cookie(ctx);
	f = leave(t, COOKIE_HOOK(cookie), COOKIE_PHASE(cookie), COOKIE_INTERVAL(cookie));
	if (f && COOKIE_EXIT(cookie))
		on_exit(t, f, COOKIE_EXIT(cookie), REGISTER(ctx, OFF_RETURN));
	return 0;
}

int kprobe_read_hook_entry(void *ctx)
{
	struct thread *t = current_thread();
	struct frame *f;
	u64 cookie;

	if (!t)
		return 0;
	cookie = attach_cookie(ctx);
	f = enter(t, COOKIE_HOOK(cookie), COOKIE_PHASE(cookie));
	if (f && COOKIE_ENTRY(cookie))
		on_read_entry(t, f, COOKIE_ENTRY(cookie), REGISTER(ctx, OFF_ARG0),
			 REGISTER(ctx, OFF_ARG1), REGISTER(ctx, OFF_ARG2));
	return 0;
}

int kprobe_read_hook_exit(void *ctx)
{
	struct thread *t = current_thread();
	struct frame *f;
	u64 cookie;

	if (!t)
		return 0;
	cookie = attach_cookie(ctx);
	f = leave(t, COOKIE_HOOK(cookie), COOKIE_PHASE(cookie), COOKIE_INTERVAL(cookie));
	if (f && COOKIE_EXIT(cookie))
		on_read_exit(t, f, COOKIE_EXIT(cookie), REGISTER(ctx, OFF_RETURN));
	return 0;
}
#endif
