package pgembed

import "syscall"

func signalOnDeath(attr *syscall.SysProcAttr, signal syscall.Signal) { attr.Pdeathsig = signal }

// watch has nothing to do: the kernel watches.
func watch(owner, int) (stop func()) { return func() {} }
