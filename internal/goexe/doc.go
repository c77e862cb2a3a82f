// Package goexe reads Go executables that somebody else built: version and
// modules, functions, struct offsets, and where in a function a uprobe is
// cheap. It treats every file as hostile: nothing is indexed before a length
// check, nothing is allocated from an unchecked size, nothing recurses on
// input. It never runs or maps the file, and it reads only the parts it needs.
package goexe
