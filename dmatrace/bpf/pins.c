// SPDX-License-Identifier: GPL-2.0-only
/*
 * Pinned pages of direct I/O are released with their bio, in interrupt
 * context: the bio's owner record says how much was pinned and by whom.
 * __bio_release_pages() is called only for bios with BIO_PAGE_PINNED.
 */
static __always_inline int bio_released(u64 bio)
{
	struct bio_owner *owner = owners.lookup(&bio);

	if (!owner)
		return 0;
	unpin((owner->bytes + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1));
	owners.delete(&bio);
	return 0;
}

#ifdef WITH_FENTRY
KFUNC_PROBE(bio_release)
{
	u64 bio = 0;

	func_arg(ctx, 0, &bio);
	return bio_released(bio);
}
#endif

#ifdef WITH_KPROBE
int kprobe_bio_release_entry(void *ctx)
{
	return bio_released(REGISTER(ctx, OFF_ARG0));
}
#endif
