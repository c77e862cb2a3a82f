package hostmetrics

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/procfs"
)

// fixture writes files below a new folder, which it returns.
func fixture(t *testing.T, files map[string]string) (root string) {
	t.Helper()
	root = t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// TestGroupOfHybrid: where both versions are mounted the CPU time is that of the group which is
// the process's own, once.
func TestGroupOfHybrid(t *testing.T) {
	for _, tt := range []struct {
		name, v1, v2 string
		want         float64
	}{
		{"the same group", "/docker/1", "/docker/1", 1},
		{"another group", "/docker/1", "/kubepods/1", 1},
		{"a slice in version 1", "/system.slice", "/system.slice/x.service", 2},
		{"only the name begins alike", "/system.sl", "/system.slice/x.service", 1},
		{"a slice in version 2", "/system.slice/x.service", "/system.slice", 1},
		{"the root in version 1", "/", "/system.slice/x.service", 2},
		{"the root in version 2", "/system.slice", "/", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root := fixture(t, map[string]string{
				"proc/7/cgroup":                "5:cpu,cpuacct:" + tt.v1 + "\n0::" + tt.v2 + "\n",
				"v1" + tt.v1 + "/cpuacct.stat": "user 100\nsystem 100\n",
				"v2" + tt.v2 + "/cpu.stat":     "usage_usec 4000000\nuser_usec 2000000\nsystem_usec 2000000\n",
			})
			fs, err := procfs.NewFS(root + "/proc")
			if err != nil {
				t.Fatal(err)
			}
			proc, err := fs.Proc(7)
			if err != nil {
				t.Fatal(err)
			}
			for _, version2 := range []bool{true, false} {
				s, want := &Source{groups: mounts{"cpu": root + "/v1", "cpuacct": root + "/v1"}}, tt.want
				if version2 {
					s.groups[""] = root + "/v2"
				} else if want = 1; tt.v1 == "/" {
					continue
				}
				got := take(s.groupOf(proc).read)
				for _, mode := range []string{"user", "system"} {
					if v := got["container.cpu.time{cpu.mode="+mode+"}"]; v != want {
						t.Errorf("version 2 mounted: %v: %v s of %s, want %v", version2, v, mode, want)
					}
				}
			}
		})
	}
}

// TestRowsOfVersion2: what the rows say of a host with version 2 alone, from files of such a one.
func TestRowsOfVersion2(t *testing.T) {
	const stall = "some avg10=0.00 avg60=0.00 avg300=0.00 total=1500000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=500000\n"
	s := &subject{folders: folders{v2: fixture(t, map[string]string{
		"cgroup.controllers": "cpuset cpu io memory pids\n",
		"cpu.stat":           "usage_usec 3500000\nuser_usec 2500000\nsystem_usec 1000000\nnr_periods 20\nnr_throttled 7\nthrottled_usec 450000\n",
		"cpu.max":            "12000 20000\n",
		"memory.current":     "10485760\n",
		"memory.max":         "67108864\n",
		"memory.stat":        "anon 4096\nfile 8192\ninactive_file 485760\n",
		"memory.events":      "low 0\nhigh 0\nmax 4\noom 2\noom_kill 3\noom_group_kill 0\n",
		"cpu.pressure":       stall, "memory.pressure": stall, "io.pressure": stall,
	})}}
	got, compared := take((&group{v2: s.v2}).read), 0
	for name, r := range processRows {
		if !strings.HasPrefix(name, "container.") || name == "container.network.io" {
			continue
		}
		compared++
		if lacks := r.lacks(s); lacks != "" {
			t.Errorf("%s: lacks %s", name, lacks)
			continue
		}
		says := r.says(t, s)
		for _, wrong := range disagree(r, name, got, says, says) {
			t.Error(wrong)
		}
	}
	if compared != 10 {
		t.Errorf("%d rows", compared)
	}
}

// TestFoldersOfOneHierarchy: a process is in one group of a hierarchy, however many controllers
// that has and by whatever name it is found.
func TestFoldersOfOneHierarchy(t *testing.T) {
	root := fixture(t, map[string]string{"cpu,cpuacct/tasks": "", "memory/tasks": ""})
	if err := os.Symlink("cpu,cpuacct", root+"/cpuacct"); err != nil {
		t.Fatal(err)
	}
	f := newFolders(t, &Source{groups: mounts{"cpu": root + "/cpu,cpuacct", "cpuacct": root + "/cpuacct", "memory": root + "/memory"}}, "cpu", "cpuacct", "memory", "")
	if f.cpu == "" || f.cpu != f.cpuacct || f.memory == "" || f.memory == f.cpu || f.v2 != "" {
		t.Errorf("groups %+v", f)
	}
}

// TestMountedFile: a file that is mounted into a container is no file system.
func TestMountedFile(t *testing.T) {
	root := fixture(t, map[string]string{
		"1/mountinfo": "30 1 0:28 /var/lib/docker/hosts /etc/hosts rw - btrfs /dev/sda1 rw\n" +
			"31 1 0:28 /volume /data rw - btrfs /dev/sda1 rw\n" +
			"32 1 0:28 /other /more rw - btrfs /dev/sda1 rw\n" +
			"33 1 8:2 /x /etc/hosts rw - ext4 /dev/sda2 rw\n" +
			"34 1 8:3 / /gone rw - ext4 /dev/sda3 rw\n",
		"1/root/etc/hosts": "", "1/root/data/x": "", "1/root/more/x": "",
	})
	fs, err := procfs.NewFS(root)
	if err != nil {
		t.Fatal(err)
	}
	got := (&host{s: &Source{o: Options{Proc: root}, fs: fs}}).findFilesystems()
	if len(got) != 1 || got[0].path != root+"/1/root/data" {
		t.Errorf("file systems %+v", got)
	}
}
