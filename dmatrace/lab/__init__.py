"""The guest: a Debian kernel under QEMU with this checkout inside, for tests and demos.

``image`` builds what boots, ``accel`` finds out whether KVM works, ``guest``
starts one and runs commands in it.  Nothing outside this package knows that a
machine is virtual.
"""
