// Records what Flagger sends by its own notifiers: one alert of each severity for each provider, to a server on this machine. Writes a JSON
// object with method, path, content type and body of each request, under the provider's name and the severity. The alert is the one that
// Serin's goldens tell of, so that src/notify/tests.rs can hold both against each other.
package main

import (
	"bytes"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"

	"github.com/fluxcd/flagger/pkg/notifier"
)

type request struct {
	Method      string          `json:"method"`
	Path        string          `json:"path"`
	ContentType string          `json:"contentType"`
	Body        json.RawMessage `json:"body"`
}

func main() {
	var last request
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, asked *http.Request) {
		body, err := io.ReadAll(asked.Body)
		if err != nil {
			log.Fatal(err)
		}
		last = request{asked.Method, asked.URL.Path, asked.Header.Get("Content-Type"), body}
	}))
	defer server.Close()
	fields := []notifier.Field{
		{Name: "Cluster", Value: "europe"},
		{Name: "Cause", Value: "2 failed checks reached the threshold; the last: success rate 94.50% < 99%"},
		{Name: "Checks", Value: "request-success-rate 94.50% (≥ 99%): Failed"},
	}
	recorded := map[string]map[string]request{}
	for _, provider := range []string{"slack", "discord", "rocket", "msteams", "gchat"} {
		told, err := notifier.NewFactory(server.URL+"/hook", "", "", "serin", "ops").Notifier(provider)
		if err != nil {
			log.Fatal(err)
		}
		recorded[provider] = map[string]request{}
		for _, severity := range []string{"info", "warn", "error"} {
			if err := told.Post("podinfo", "test", "Failed checks threshold reached 2", fields, severity); err != nil {
				log.Fatal(err)
			}
			recorded[provider][severity] = last
		}
	}
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(recorded); err != nil {
		log.Fatal(err)
	}
	if _, err := text.WriteTo(os.Stdout); err != nil {
		log.Fatal(err)
	}
}
