/* Reads SQL texts, each behind a NUL, and says of each in a line whether all its statements are of MySQL's grammar. */

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.antlr.v4.runtime.BaseErrorListener;
import org.antlr.v4.runtime.CharStreams;
import org.antlr.v4.runtime.CommonTokenStream;
import org.antlr.v4.runtime.RecognitionException;
import org.antlr.v4.runtime.Recognizer;
import org.antlr.v4.runtime.Token;
import org.antlr.v4.runtime.atn.PredictionMode;
import org.apache.shardingsphere.sql.parser.autogen.MySQLStatementLexer;
import org.apache.shardingsphere.sql.parser.autogen.MySQLStatementParser;

class Grammar extends BaseErrorListener {
  /** By their tokens, since most differ in their values only. */
  private static final Map<String, String> KNOWN = new HashMap<>();
  private String error;

  public static void main(String[] arguments) throws IOException {
    String input = new String(System.in.readAllBytes(), StandardCharsets.UTF_8);
    for (String text : input.split("\0")) {
      String verdict = "ok";
      for (String statement : statements(text)) {
        String why = KNOWN.computeIfAbsent(keyOf(statement), key -> new Grammar().refusal(statement));
        if (!why.isEmpty()) verdict = why;
      }
      System.out.println(verdict.replaceAll("\\s+", " "));
    }
    System.out.println(KNOWN.size());
  }

  private static List<Token> tokens(String text) {
    MySQLStatementLexer lexer = new MySQLStatementLexer(CharStreams.fromString(text));
    lexer.removeErrorListeners();
    CommonTokenStream stream = new CommonTokenStream(lexer);
    stream.fill();
    return stream.getTokens();
  }

  /** A driver sends several in one message. */
  private static List<String> statements(String text) {
    List<String> found = new ArrayList<>();
    int from = 0;
    for (Token token : tokens(text)) {
      boolean end = token.getType() == Token.EOF;
      if (!end && token.getType() != MySQLStatementLexer.SEMI_) continue;
      String statement = text.substring(from, end ? text.length() : token.getStartIndex());
      if (!statement.isBlank()) found.add(statement);
      from = end ? text.length() : token.getStopIndex() + 1;
    }
    return found;
  }

  private static String keyOf(String statement) {
    StringBuilder key = new StringBuilder();
    for (Token token : tokens(statement)) {
      boolean word = token.getType() == MySQLStatementLexer.IDENTIFIER_;
      key.append(word ? token.getText() : token.getType()).append(' ');
    }
    return key.toString();
  }

  private String refusal(String statement) {
    MySQLStatementLexer lexer = new MySQLStatementLexer(CharStreams.fromString(statement));
    CommonTokenStream stream = new CommonTokenStream(lexer);
    MySQLStatementParser parser = new MySQLStatementParser(stream);
    lexer.removeErrorListeners();
    parser.removeErrorListeners();
    lexer.addErrorListener(this);
    parser.addErrorListener(this);
    parser.getInterpreter().setPredictionMode(PredictionMode.SLL);
    parser.execute();
    // The rule ends where a statement might: what follows is left.
    Token next = stream.LT(1);
    if (error == null && next.getType() != Token.EOF) error = "not expected: " + next.getText();
    return error == null ? "" : error;
  }

  @Override
  public void syntaxError(
      Recognizer<?, ?> by, Object at, int line, int column, String message, RecognitionException cause) {
    if (error == null) error = "line " + line + ", column " + column + ": " + message;
  }
}
