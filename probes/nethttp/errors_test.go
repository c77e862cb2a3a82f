package nethttp

import "testing"

func TestErrorKind(t *testing.T) {
	for name, c := range map[string]struct {
		info errorInfo
		want string
	}{
		"nothing known":     {errorInfo{}, "_OTHER"},
		"refused":           {errorInfo{types: []string{"*net.OpError", "*os.SyscallError", "syscall.Errno"}, raw: [2]uint64{111}}, "connection_refused"},
		"reset":             {errorInfo{types: []string{"*net.OpError", "*os.SyscallError", "syscall.Errno"}, raw: [2]uint64{104}}, "connection_reset"},
		"other errno":       {errorInfo{types: []string{"syscall.Errno"}, raw: [2]uint64{13}}, "errno_permission_denied"},
		"no such host":      {errorInfo{types: []string{"*net.OpError", "*net.DNSError"}}, "name_resolution"},
		"deadline":          {errorInfo{types: []string{"context.deadlineExceededError"}}, "timeout"},
		"response headers":  {errorInfo{types: []string{"*http.timeoutError"}}, "timeout"},
		"I/O deadline":      {errorInfo{types: []string{"*net.OpError", "*poll.DeadlineExceededError"}}, "timeout"},
		"cancelled":         {errorInfo{types: []string{"*errors.errorString"}, text: "context canceled"}, "canceled"},
		"unknown authority": {errorInfo{types: []string{"*tls.CertificateVerificationError", "x509.UnknownAuthorityError"}}, "tls"},
		"closed by server":  {errorInfo{types: []string{"http.transportReadFromServerError", "*errors.errorString"}, text: "EOF"}, "connection_closed"},
		"plain text":        {errorInfo{types: []string{"*errors.errorString"}, text: "no luck"}, "errors.errorString"},
		"somebody's own":    {errorInfo{types: []string{"*shop.QuotaError"}}, "*shop.QuotaError"},
	} {
		if got, _ := c.info.kind(); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestHeaderRules(t *testing.T) {
	hdrs, err := wantedHeaders([]string{"x-correlation-id", "X-A-Name-Of-More-Than-24-Bytes"})
	if err != nil {
		t.Fatal(err)
	}
	rules, err := headerRules(hdrs)
	if err != nil {
		t.Fatal(err)
	}
	if r := rules[len("X-Correlation-Id")][0]; r.Wanted != 1 || r.Slot != uint32(bpfNhStrS_CAPTURE0) || r.Word != headerWords("X-Correlation-Id") {
		t.Errorf("rule of X-Correlation-Id: %+v", r)
	}
	if rules[0] != ([rulesPerLen]hdrRule{}) {
		t.Errorf("rules for names without a byte: %+v", rules[0])
	}
	if headerWords("X-A-Name-Of-More-Than-24-Bytes") == headerWords("X-A-Name-Of-More-Than-24-Bitez") {
		t.Error("names that end differently look the same")
	}
	for name, capture := range map[string][]string{
		"too many":               {"A1", "A2", "A3", "A4", "A5", "A6", "A7"},
		"empty":                  {""},
		"too many of one length": {"Xx-Agent-1", "Xx-Agent-2", "Xx-Agent-3", "Xx-Agent-4"},
	} {
		hdrs, err := wantedHeaders(capture)
		if err == nil {
			_, err = headerRules(hdrs)
		}
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
