// SPDX-License-Identifier: GPL-2.0-only
/*
 * The misc device and its ioctls: arguments in, results out, fds last.
 */
#include <linux/compat.h>
#include <linux/device.h>
#include <linux/dma-mapping.h>
#include <linux/file.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/uaccess.h>

#include "loader.h"

struct device *dml_device;

#define DML_FEATURES_ALL (DMATRACE_LOADER_FEATURE_MEMFD | \
			  DMATRACE_LOADER_FEATURE_SG_TABLE | \
			  DMATRACE_LOADER_FEATURE_VMAP_DIRECT | \
			  DMATRACE_LOADER_FEATURE_MMAP_INSERT | \
			  DMATRACE_LOADER_FEATURE_MMAP_INSERT_NO_RSS | \
			  DMATRACE_LOADER_FEATURE_CGROUP)

static u64 dml_features(void)
{
	u64 features = DMATRACE_LOADER_FEATURE_MMAP_INSERT;

#ifdef HAVE_MEMFD_PIN_FOLIOS
	features |= DMATRACE_LOADER_FEATURE_MEMFD;
#endif
	if (!IS_ENABLED(CONFIG_DMABUF_DEBUG))
		features |= DMATRACE_LOADER_FEATURE_SG_TABLE;
	if (DML_KVEC_DIRECT)
		features |= DMATRACE_LOADER_FEATURE_VMAP_DIRECT;
	if (IS_ENABLED(CONFIG_MEMCG) && IS_ENABLED(CONFIG_BLK_CGROUP))
		features |= DMATRACE_LOADER_FEATURE_CGROUP;
	return features;
}

static long dml_ioctl_query(struct dmatrace_loader_query *arg)
{
	if (memchr_inv(arg->reserved, 0, sizeof(arg->reserved)))
		return -EINVAL;
	arg->version = DMATRACE_LOADER_VERSION;
	arg->page_size = PAGE_SIZE;
	arg->features = dml_features();
	arg->missing = DML_FEATURES_ALL & ~arg->features;
	arg->max_length = dml_max_length();
	return 0;
}

union dml_argument {
	struct dmatrace_loader_query query;
	struct dmatrace_loader_rw_file rw_file;
	struct dmatrace_loader_alloc alloc;
	struct dmatrace_loader_alloc_read alloc_read;
	struct dmatrace_loader_stream stream;
};

/* Bytes of an ioctl's argument, 0 if there is no such ioctl; whether it makes a fd. */
static size_t dml_size(unsigned int cmd, bool *makes_fd)
{
	*makes_fd = true;
	switch (cmd) {
	case DMATRACE_LOADER_QUERY:
	case DMATRACE_LOADER_RW_FILE:
		*makes_fd = false;
		fallthrough;
	case DMATRACE_LOADER_ALLOC:
	case DMATRACE_LOADER_ALLOC_READ:
	case DMATRACE_LOADER_STREAM:
		return _IOC_SIZE(cmd);
	default:
		return 0;
	}
}

/* Runs one ioctl on the kernel's copy of its argument; what it makes goes to @made. */
static long dml_run(unsigned int cmd, union dml_argument *arg, int fd, struct file **made)
{
	struct dma_buf *dmabuf = NULL;
	long ret;

	switch (cmd) {
	case DMATRACE_LOADER_QUERY:
		return dml_ioctl_query(&arg->query);
	case DMATRACE_LOADER_RW_FILE:
		return dml_ioctl_rw_file(&arg->rw_file);
	case DMATRACE_LOADER_ALLOC:
		ret = dml_ioctl_alloc(&arg->alloc, &dmabuf);
		arg->alloc.fd = ret ? -1 : fd;
		break;
	case DMATRACE_LOADER_ALLOC_READ:
		ret = dml_ioctl_alloc_read(&arg->alloc_read, &dmabuf);
		arg->alloc_read.fd = ret ? -1 : fd;
		break;
	default:
		ret = dml_ioctl_stream(&arg->stream, made);
		arg->stream.fd = ret ? -1 : fd;
		return ret;
	}
	if (!ret)
		*made = dmabuf->file;
	return ret;
}

static u32 dml_fd_flags(unsigned int cmd, const union dml_argument *arg)
{
	switch (cmd) {
	case DMATRACE_LOADER_ALLOC:
		return arg->alloc.fd_flags;
	case DMATRACE_LOADER_ALLOC_READ:
		return arg->alloc_read.fd_flags;
	default:
		return arg->stream.fd_flags;
	}
}

static long dml_ioctl(struct file *device, unsigned int cmd, unsigned long pointer)
{
	void __user *user = (void __user *)pointer;
	struct file *made = NULL;
	union dml_argument arg;
	bool makes_fd;
	size_t size = dml_size(cmd, &makes_fd);
	int fd = -1;
	long ret;

	if (!size)
		return -ENOTTY;
	if (copy_from_user(&arg, user, size))
		return -EFAULT;
	if (makes_fd) {
		/* First, because a load may take long; installed last, when nothing can fail. */
		fd = get_unused_fd_flags(dml_fd_flags(cmd, &arg) & O_CLOEXEC);
		if (fd < 0)
			return fd;
	}
	ret = dml_run(cmd, &arg, fd, &made);
	/* A failed call tells how far it got; its own error stays the error. */
	if (copy_to_user(user, &arg, size) && !ret)
		ret = -EFAULT;
	if (!makes_fd)
		return ret;
	if (ret) {
		put_unused_fd(fd);
		if (made)
			fput(made);
		return ret;
	}
	fd_install(fd, made);
	return 0;
}

static const struct file_operations dml_fops = {
	.owner		= THIS_MODULE,
	.unlocked_ioctl	= dml_ioctl,
	.compat_ioctl	= compat_ptr_ioctl,
	.llseek		= noop_llseek,
};

static struct miscdevice dml_misc = {
	.minor	= MISC_DYNAMIC_MINOR,
	.name	= "dmatrace_loader",
	.fops	= &dml_fops,
	.mode	= 0600,
};

static int __init dml_init(void)
{
	int ret;

	/* A device of its own: the misc device is open to callers once it is there. */
	dml_device = root_device_register("dmatrace_loader");
	if (IS_ERR(dml_device))
		return PTR_ERR(dml_device);
	/* We attach to look at pages; no device of ours ever transfers anything. */
	ret = dma_coerce_mask_and_coherent(dml_device, DMA_BIT_MASK(64));
	if (ret)
		goto device;
	ret = dml_gather_init();
	if (ret)
		goto device;
	/* Last, because nothing may fail once there may be callers. */
	ret = misc_register(&dml_misc);
	if (ret)
		goto gather;
	return 0;
gather:
	dml_gather_exit();
device:
	root_device_unregister(dml_device);
	return ret;
}

static void __exit dml_exit(void)
{
	misc_deregister(&dml_misc);
	dml_gather_exit();
	root_device_unregister(dml_device);
}

module_init(dml_init);
module_exit(dml_exit);

MODULE_DESCRIPTION("Loads files into dma-bufs in the ways that were proposed and not merged");
MODULE_LICENSE("GPL");
#ifdef HAVE_IMPORT_NS_TOKEN
MODULE_IMPORT_NS(DMA_BUF);
#else
MODULE_IMPORT_NS("DMA_BUF");
#endif
