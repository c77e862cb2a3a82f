// Package kernel says what the running kernel allows this process to do. Every
// answer comes from trying the thing itself: versions lie (backports), and so do
// configuration and lockdown files (a helper can be refused with none of them
// saying so). Nothing stays attached or loaded after a probe.
//
// It decides nothing about probes or processes; it only reports, with the reason
// in the kernel's words and what a missing feature means in ours.
package kernel
