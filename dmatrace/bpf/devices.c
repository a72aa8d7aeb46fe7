// SPDX-License-Identifier: GPL-2.0-only
/*
 * Devices that attach to a dma-buf, and detach: an NPU's or GPU's driver does so when a
 * process hands it the fd (DRM's PRIME_FD_TO_HANDLE, V4L2's QBUF).  They are calls like
 * mmap(2) is one, about the dma-buf, with the device's name as path.
 */
static __always_inline int device_call(u32 what, u64 dmabuf, u64 attachment)
{
	struct call_event e = { .type = EV_CALL, .what = what, .kind = TO_DMABUF, .fd = -1 };
	struct thread *t = current_thread();
	struct file_key key = {};
	u64 inode, device, name;

	if (!t)
		return 0;
	inode = inode_of_file(load64(dmabuf + OFF_dma_buf_file));
	if (!inode)
		return 0;
	name_inode(inode, &key);
	e.tid = t->tid;
	e.tgid = t->tgid;
	e.at = bpf_ktime_get_ns();
	e.ino = key.ino;
	e.dev = key.dev;
	describe_dmabuf(&e, dmabuf);
	device = load64(attachment + OFF_dma_buf_attachment_dev);
	/* dev_name(): a device that is not registered yet has the one, all others have the other. */
	name = load64(device + OFF_device_init_name);
	if (!name)
		name = load64(device + OFF_device_name);
	bpf_probe_read_kernel_str(e.path, sizeof(e.path), (void *)name);
	emit_call(&e);
	return 0;
}

/* dma_buf_dynamic_attach() returns the attachment, or an errno. */
static __always_inline int attached_device(u64 attachment)
{
	if (!attachment || IS_ERROR(attachment))
		return 0;
	return device_call(CALL_ATTACH, load64(attachment + OFF_dma_buf_attachment_dmabuf),
			   attachment);
}

#ifdef WITH_FENTRY
KRETFUNC_PROBE(device_attach)
{
	u64 attachment = 0;

	func_ret(ctx, &attachment);
	return attached_device(attachment);
}

KFUNC_PROBE(device_detach)
{
	u64 dmabuf = 0, attachment = 0;

	func_arg(ctx, 0, &dmabuf);
	func_arg(ctx, 1, &attachment);
	return device_call(CALL_DETACH, dmabuf, attachment);
}
#endif

#ifdef WITH_KPROBE
int kprobe_device_attach_exit(void *ctx)
{
	return attached_device(REGISTER(ctx, OFF_RETURN));
}

int kprobe_device_detach_entry(void *ctx)
{
	return device_call(CALL_DETACH, REGISTER(ctx, OFF_ARG0), REGISTER(ctx, OFF_ARG1));
}
#endif
