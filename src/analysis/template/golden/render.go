// Writes templates.json: what Go's own text/template makes of the templates in templates.txt, with the functions that Flagger gives
// to metric templates, nil as the data and missingkey=error. Run it after editing templates.txt: go run render.go
package main

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"text/template"
)

type row struct {
	Template string  `json:"template"`
	Output   *string `json:"output,omitempty"`
	Error    string  `json:"error,omitempty"`
}

func main() {
	source, err := os.ReadFile("templates.txt")
	if err != nil {
		panic(err)
	}
	value := func(text string) func() string { return func() string { return text } }
	functions := template.FuncMap{
		"name": value("podinfo"), "namespace": value("test"), "target": value("podinfo"), "service": value("podinfo-svc"),
		"ingress": value("podinfo-ing"), "route": value("podinfo-route"), "interval": value("1m"),
		"variables": func() map[string]string {
			return map[string]string{"a": "1", "b": "two", "team": "blue", "quoted": `say "hi"`, "empty": ""}
		},
	}
	var rows []row
	for _, text := range strings.Split(strings.TrimSuffix(string(source), "\n"), "\n---\n") {
		var out bytes.Buffer
		parsed, err := template.New("tmpl").Funcs(functions).Option("missingkey=error").Parse(text)
		if err == nil {
			err = parsed.Execute(&out, nil)
		}
		if err != nil {
			rows = append(rows, row{Template: text, Error: err.Error()})
			continue
		}
		rendered := out.String()
		rows = append(rows, row{Template: text, Output: &rendered})
	}
	var written bytes.Buffer
	encoder := json.NewEncoder(&written)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", " ")
	if err := encoder.Encode(rows); err != nil {
		panic(err)
	}
	if err := os.WriteFile("templates.json", written.Bytes(), 0o644); err != nil {
		panic(err)
	}
}
